"""Sections of the report: one file = one panel, a function of the run that returns an HTML fragment ("" when it has nothing to say).

The page orders built-in panels by the number in ``ABOUT.answers`` ("10" comes before "20"; without a number last), then those
of installed packages the same way. A panel reads records only, is a pure function of the run, escapes what it shows
(``brittle.panels._html.fill`` does) and draws with :mod:`brittle.plots`. A panel with the name of a diagnostic replaces the
table and the plot that :mod:`brittle.panels.findings` would make of that diagnostic.
"""
