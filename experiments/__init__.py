"""Whole federations on one machine: the demo and the paper's experiments."""
