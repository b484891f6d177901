"""One module for each source of radiographs. Each is a command of ``flower-data``."""
