"""Measurements, each with its command and its result beside it."""
