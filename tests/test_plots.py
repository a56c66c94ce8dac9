"""Plots: pixels equal the analytic map, paths stay exact and short, every drawing is well-formed XML."""

import re
import xml.etree.ElementTree as ET
from math import inf

import pytest

from brittle.plots import (
    Axis,
    Scale,
    band,
    bars,
    brackets,
    contour,
    figure,
    heat_map,
    line,
    log_ticks,
    nice_ticks,
    rule,
    scatter,
    stairs,
    stairs_band,
)
from brittle.plots.figure import scales
from brittle.plots.planar import contour_segments
from brittle.plots.scales import tick_text

UNIT = (Scale(0, 10, 100, 200), Scale(0, 1, 300, 0))  # 10 px per unit of x; y grows upwards, 300 px per unit


@pytest.mark.parametrize(
    "scale, value, pixel",
    [
        (Scale(0, 10, 100, 200), 0, 100),
        (Scale(0, 10, 100, 200), 7.5, 175),
        (Scale(0, 1, 300, 0), 0.25, 225),
        (Scale(-1, 1, 0, 50), 0, 25),
        (Scale(1e-4, 1, 0, 80, log=True), 1e-3, 20),
        (Scale(1e-4, 1, 80, 0, log=True), 1e-1, 20),
    ],
)
def test_a_scale_is_the_affine_or_logarithmic_map(scale, value, pixel):
    assert scale(value) == pytest.approx(pixel, abs=1e-9)


def test_infinite_and_non_positive_values_land_outside_the_frame_on_the_right_side():
    assert Scale(0, 1, 0, 100)(inf) > 1000 and Scale(0, 1, 100, 0)(inf) < -1000
    assert Scale(0.1, 1, 0, 100, log=True)(0.0) < -1000


@pytest.mark.parametrize("low, high, log", [(1, 1, False), (2, 1, False), (0, inf, False), (0, 1, True)])
def test_an_impossible_range_is_refused(low, high, log):
    with pytest.raises(ValueError, match="expected"):
        Scale(low, high, 0, 1, log)


@pytest.mark.parametrize(
    "low, high, count, ticks",
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.3, 3, [0, 0.1, 0.2, 0.3]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 7, 5, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0, 12000, 5, [0, 2000, 4000, 6000, 8000, 10000, 12000]),
    ],
)
def test_nice_ticks(low, high, count, ticks):
    assert nice_ticks(low, high, count) == pytest.approx(ticks, abs=1e-12)


def test_log_ticks_thin_themselves():
    assert log_ticks(1e-3, 1) == [1e-3, 1e-2, 1e-1, 1.0]
    assert len(log_ticks(1e-40, 1)) <= 9 and log_ticks(1e-40, 1)[-1] == 1.0


def test_tick_labels_share_their_decimals_and_powers():
    assert [tick_text(v, [0.0, 0.25, 0.5]) for v in (0.25, 0.5)] == ["0.25", "0.50"]
    assert [tick_text(v, [1e-5, 1e-3, 1.0], log=True) for v in (1e-5, 1e-3, 1.0)] == ["10⁻⁵", "10⁻³", "1"]
    assert tick_text(-0.5, [-0.5, 0.0]) == "−0.5"


def test_golden_pixels_of_every_mark():
    assert 'points="100,300 150,150"' in line([0, 5], [0, 0.5])(*UNIT)
    assert 'cx="125" cy="75"' in scatter([2.5], [0.75])(*UNIT)
    assert 'd="M120,240V60M117.5,240h5M117.5,60h5"' in brackets([2], [0.2], [0.8])(*UNIT)
    assert 'points="100,300 200,240 200,0 100,60"' in band([0, 10], [0, 0.2], [0.8, 1])(*UNIT)
    assert 'x="115" y="150" width="10" height="150"' in bars([2], [0.5], 1)(*UNIT)
    assert 'x1="140" x2="140"' in rule(4)(*UNIT) and 'y1="210" y2="210"' in rule(0.3, "y")(*UNIT)
    assert 'd="M100,0H120V150H150V300H200"' in stairs([0, 2, 5, 10], [1, 0.5, 0])(*UNIT)


def test_a_band_between_stairs_runs_along_one_and_back_along_the_other():
    path = stairs_band(([0, 5, 10], [0.5, 0]), ([0, 5, 10], [1, 0.5]))(*UNIT)
    assert 'd="M100,150H150V300H200V150H150V0H100Z"' in path


def test_stairs_of_many_steps_stay_short_and_within_half_a_pixel():
    count = 10_000
    edges = [10 * k / count for k in range(count + 1)]
    levels = [1 - k / count for k in range(count)]
    path = stairs(edges, levels)(*UNIT)
    corners = re.findall(r"H([\d.]+)V([\d.]+)", path)
    assert len(corners) <= 201  # 100 px wide, two positions a pixel
    for left, top in corners:
        exact = UNIT[1](1 - (float(left) - 100) / 100)
        assert (
            abs(float(top) - exact) <= 300 / 100 / 2 + 0.75
        )  # half a pixel across (three down), half a pixel of rounding


def test_the_figure_draws_a_point_where_its_scales_say():
    x, y = Axis("size", 0, 2), Axis("share", 0, 1)
    across, up = scales(x, y)
    svg = figure([scatter([0.5], [0.25])], x, y, label="one point")
    dot = ET.fromstring(svg).find(".//circle")
    assert dot is not None
    assert float(dot.get("cx")) == pytest.approx(across.start + (across.stop - across.start) / 4, abs=0.01)
    assert float(dot.get("cy")) == 199  # a quarter of the way up from 300 - 44 to 28
    assert float(dot.get("cy")) == pytest.approx(up.start + (up.stop - up.start) / 4, abs=0.01)


def test_every_mark_is_well_formed_and_escaped():
    nasty = '<script>alert("1")</script>&'
    grid = [[0.0, 1.0, 0.0], [1.0, 2.0, 1.0]]
    marks = [
        line([0, 1], [0, 1], nasty),
        stairs([0, 1, 2], [1, 0], nasty),
        scatter([1], [1], nasty, [nasty], "diamond"),
        brackets([1], [0], [inf], nasty, [nasty]),
        bars([1], [1], 1, nasty),
        rule(1, "x", nasty, nasty),
        heat_map([0, 1, 2], [0, 1], grid, nasty),
        contour([0, 1, 2], [0, 1], grid, 0.5, nasty),
    ]
    svg = figure(marks, Axis(nasty, 0, 2), Axis(nasty, 0, 1), label=nasty)
    assert "<script" not in svg and ET.fromstring(svg).get("role") == "img"


def test_contours_of_a_plane_lie_on_the_line_and_of_a_bowl_on_the_circle():
    xs = ys = [k / 10 - 1 for k in range(21)]
    plane = [[x + 2 * y for x in xs] for y in ys]
    for segment in contour_segments(xs, ys, plane, 0.33):
        assert all(x + 2 * y == pytest.approx(0.33, abs=1e-12) for x, y in segment)
    bowl = [[x * x + y * y for x in xs] for y in ys]
    pieces = contour_segments(xs, ys, bowl, 0.5)
    assert len(pieces) > 20
    assert all(abs((x * x + y * y) ** 0.5 - 0.5**0.5) < 0.01 for s in pieces for x, y in s)


@pytest.mark.parametrize("pattern", range(16))
def test_every_cell_separates_the_corners_above_from_those_below(pattern):
    low, high = 0.0, 1.0
    v = [high if pattern >> k & 1 else low for k in range(4)]
    pieces = contour_segments([0, 1], [0, 1], [[v[0], v[1]], [v[3], v[2]]], 0.4)
    ends = {p for s in pieces for p in s}
    sides = {(0.5, 0): v[0] != v[1], (1, 0.5): v[1] != v[2], (0.5, 1): v[2] != v[3], (0, 0.5): v[3] != v[0]}
    touched = {(0.5 if 0 < x < 1 else x, 0.5 if 0 < y < 1 else y) for x, y in ends}
    assert touched == {side for side, crossed in sides.items() if crossed}


@pytest.mark.parametrize(
    "level, pieces",
    [  # the centre of the cell is 0.5: below it the high corners hang together, above it the low ones
        (0.4, {((0.6, 0.0), (1.0, 0.4)), ((0.4, 1.0), (0.0, 0.6))}),
        (0.6, {((0.0, 0.4), (0.4, 0.0)), ((1.0, 0.6), (0.6, 1.0))}),
    ],
)
def test_a_saddle_joins_the_corners_that_its_centre_belongs_to(level, pieces):
    found = contour_segments([0, 1], [0, 1], [[1, 0], [0, 1]], level)
    rounded = {tuple((round(x, 9), round(y, 9)) for x, y in s) for s in found}
    assert rounded == pieces


def test_heat_cells_tile_the_grid():
    svg = heat_map([1, 3], [0.25, 0.75], [[0, 1], [2, 4]])(*UNIT)
    boxes = re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" fill-opacity="([\d.]+)"', svg
    )
    assert [b[4] for b in boxes] == ["0", "0.25", "0.5", "1"]
    assert boxes[0][:4] == ("100", "150", "20", "150") and boxes[3][:4] == ("120", "0", "20", "150")
