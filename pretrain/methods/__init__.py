"""The four methods, one file each, and what the engine asks of every one of them."""
