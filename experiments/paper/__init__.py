"""The experiments of the paper: tables 1 to 3, figure 6 and bounds, with a verdict for each claim."""
