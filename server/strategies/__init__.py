"""How updates become the next model; one file for each strategy."""
