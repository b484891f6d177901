"""The paper's experiments: tables 1 to 3, figure 6 and bounds, a verdict for each claim."""
