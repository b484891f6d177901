"""Procedural phantoms of chest films."""
