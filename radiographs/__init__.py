"""Makes shards from radiographs: sources, readers, writers, phantoms and inspection.

Imports only ``common``.
"""
