"""Inline SVG of our own: scales, marks, and the figure that frames them. No dependency, no script, no fonts, no colours.

Colours come from the page's style sheet through class names: ``c0`` ... ``c7`` are the colours of a series, ``d0`` ... its
dash patterns, so that one drawing serves light, dark and print.
"""

from brittle.plots.figure import Axis, figure
from brittle.plots.marks import Mark, band, bars, brackets, line, rule, scatter, stairs, stairs_band
from brittle.plots.planar import contour, heat_map
from brittle.plots.scales import Scale, log_ticks, nice_ticks

__all__ = [
    "Axis",
    "Mark",
    "Scale",
    "band",
    "bars",
    "brackets",
    "contour",
    "figure",
    "heat_map",
    "line",
    "log_ticks",
    "nice_ticks",
    "rule",
    "scatter",
    "stairs",
    "stairs_band",
]
