"""Models and data in."""
