"""What a federation in containers needs, and how to look at it."""
