"""Federations on this machine, each command in a process of its own."""
