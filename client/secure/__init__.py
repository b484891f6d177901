"""A hospital's part in secure sums; see docs/secure-aggregation.md."""
