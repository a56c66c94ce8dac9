"""Worst case, lower ends: bounds."""
