"""What a run tells Prometheus, and the port where it does."""
