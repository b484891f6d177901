"""Who may take part, and who is connected."""
