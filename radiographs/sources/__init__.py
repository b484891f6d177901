"""One module for each source of radiographs; each is a command of ``flower-data``."""
