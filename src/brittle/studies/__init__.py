"""The papers' own experiments, done again on networks and data that anyone can run, and taken further: one file per paper.

A study is ``f(cells, *, full=False, seed=0) -> Study``. Its computations go through ``cells`` (remembered, resumable, in parallel);
what it returns is claims, tables and plots as plain data. ``brittle reproduce NAME`` runs and draws it.
"""
