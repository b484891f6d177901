"""The federation's server: asks hospitals to train, checks and averages what they return."""
