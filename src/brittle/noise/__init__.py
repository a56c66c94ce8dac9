"""Random case: probability estimators and bounds."""
