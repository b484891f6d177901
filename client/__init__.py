"""A hospital's side: trains on its own shard and returns weights, nothing else."""
