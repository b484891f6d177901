"""Prepares and inspects a federation in containers."""
