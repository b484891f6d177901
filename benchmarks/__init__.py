"""Measurements; NAME.md has the command and the result of NAME.py."""
