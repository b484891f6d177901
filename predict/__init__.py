"""A trained model at work: its findings on films, heat maps, export, and a page to try it."""
