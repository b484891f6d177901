"""Inspects shards: checks, counts and pictures."""
