"""Differential privacy of a hospital's films; see docs/privacy.md."""
