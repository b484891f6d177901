"""Shards of radiographs: their format, their readers, how they are partitioned and made."""
