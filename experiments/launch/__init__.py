"""Starts federations on this machine, with a process for each command."""
