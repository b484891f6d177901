"""A run's folder: records, log, updates on disk, console."""
