"""Parallelism is a ``map``: ``f(function, items, workers=1)`` yields what ``function`` returned, in the order of completion."""
