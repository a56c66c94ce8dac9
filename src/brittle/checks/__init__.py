"""Is this measurement to be believed? Health checks."""
