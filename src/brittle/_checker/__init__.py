"""The independent checker: replays proofs in NumPy and shares no code with the bounds that made them."""
