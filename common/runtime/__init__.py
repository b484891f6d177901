"""Code that all commands share: options, signals, logs, memory, files and status."""
