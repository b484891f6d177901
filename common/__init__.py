"""What both sides of the federation agree on: model, wire format, messages, shards, metrics.

Imports neither Flower nor any folder beside it.
"""
