"""Looking at shards: checks, counts and pictures."""
