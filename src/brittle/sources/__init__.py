"""Models and data in: every way a network or a data set can be named on the command line."""
