"""``flower-report``: what a run's records say, as figures with their tables on one page."""
