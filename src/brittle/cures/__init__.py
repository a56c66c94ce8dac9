"""Repairs without training: from a module to a new module, one per file."""
