"""Writes shards: parallel conversion, and the split of films between hospitals."""
