"""Which hospitals may take part, and which are connected."""
