"""Synthetic chests, drawn procedurally."""
