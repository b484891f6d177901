"""Secure aggregation: what hospitals and server agree on; see docs/secure-aggregation.md."""
