"""What every command shares: options, signals, logs, memory, files and status."""
