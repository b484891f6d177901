"""Radiographs become shards: sources, readers, writers, phantoms and inspection.

Imports ``common`` alone.
"""
