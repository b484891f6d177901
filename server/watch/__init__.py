"""``flower-watch``: a run as it goes, in a terminal or line by line."""
