"""Worst case, upper ends: attacks."""
