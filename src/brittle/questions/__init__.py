"""The methods joined into brackets."""
