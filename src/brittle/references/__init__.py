"""The best possible classifier on this data: what no network can beat, and what a network could reach."""
