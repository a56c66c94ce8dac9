"""Windows, contour lines and projections: against disks, normal matrices and the whole matrix."""

import numpy as np
import pytest

from brittle.errors import InputError
from brittle.spectra import contours as draw
from brittle.spectra import projected as project
from brittle.spectra import pseudospectrum as solve
from brittle.spectra import whole_window as whole
from brittle.spectra._contour_lines import contour_lines

JORDAN = np.array([[0.5, 1.0], [0.0, 0.5]])


def gaussian(n):
    return np.random.default_rng(0).standard_normal((n, n)) / n**0.5


def test_the_contours_of_a_jordan_block_are_circles():
    found = draw(JORDAN, [0.3, 0.1], points=60)
    assert found.levels == (0.1, 0.3) and found.values.shape == (60, 60)
    for level, lines in zip(found.levels, found.lines, strict=True):
        assert len(lines) == 1
        np.testing.assert_array_equal(lines[0][0], lines[0][-1])  # closed
        radii = np.hypot(lines[0][:, 0] - 0.5, lines[0][:, 1])
        np.testing.assert_allclose(radii, (level**2 + level) ** 0.5, atol=2e-3)


def test_a_normal_matrix_has_one_circle_for_each_eigenvalue():
    eigenvalues = np.array([1, -1, 1j, -0.5 - 0.5j])
    found = draw(np.diag(eigenvalues), [0.2], points=80)
    assert len(found.lines[0]) == 4
    centres = [(line[:-1, 0].mean() + 1j * line[:-1, 1].mean()) for line in found.lines[0]]
    assert np.abs(np.array(centres)[:, None] - eigenvalues).min(1).max() < 0.01


def test_lines_end_at_the_border_and_saddles_are_told_apart():
    x = np.arange(3.0)
    open_line = contour_lines(x, x, np.repeat(x[None], 3, 0), 0.5)
    assert [line.tolist() for line in open_line] == [[[0.5, 0.0], [0.5, 1.0], [0.5, 2.0]]]
    saddle = np.array([[1.0, 0.0], [0.0, 1.0]])
    ends = lambda level: [{tuple(p) for p in line.tolist()} for line in contour_lines(x[:2], x[:2], saddle, level)]
    assert ends(0.75) == [
        {(0.25, 0.0), (0.0, 0.25)},
        {(1.0, 0.75), (0.75, 1.0)},
    ]  # mean below: the high corners are cut off
    assert ends(0.25) == [{(0.75, 0.0), (1.0, 0.25)}, {(0.25, 1.0), (0.0, 0.75)}]  # mean above: the low corners are


def test_the_whole_window_holds_every_point_of_the_pseudospectrum():
    matrix, epsilon = gaussian(12), 0.4
    left, right, bottom, top = whole(matrix, epsilon)
    edges = np.linspace(0, 1, 40)
    x, y = left + edges * (right - left), bottom + edges * (top - bottom)
    border = np.concatenate([x + 1j * bottom, x + 1j * top, left + 1j * y, right + 1j * y])
    assert solve(matrix, border).min() >= epsilon * (1 - 1e-9)
    tight = whole(np.diag([1.0, -2.0]), 0.5)  # of a normal matrix the box touches the disks
    np.testing.assert_allclose(tight, (-2.5, 1.5, -0.5, 0.5), atol=1e-12)


def test_levels_and_window_are_chosen():
    found = draw(gaussian(16), points=40)
    assert 2 <= len(found.levels) <= 6 and all(found.lines) and (np.diff(found.levels) > 0).all()
    inside = (found.eigenvalues.real > found.x[0]) & (found.eigenvalues.real < found.x[-1])
    assert inside.all() and len(found.eigenvalues) == 16
    for level, lines in zip(found.levels, found.lines, strict=True):
        z = np.concatenate([line[:, 0] + 1j * line[:, 1] for line in lines])
        cell = found.x[1] - found.x[0]
        assert np.abs(solve(gaussian(16), z) - level).max() < cell  # linear between the points of the grid


def test_nothing_to_draw_is_said_in_plain_words():
    with pytest.raises(InputError, match="window.*crosses.*widen or move"):
        draw(JORDAN, [0.1], window=(5, 6, 5, 6), points=10)
    with pytest.raises(InputError, match="inside the pseudospectra"):
        draw(JORDAN, [0.1], window=(0.45, 0.55, -0.05, 0.05), points=10)
    with pytest.raises(InputError, match="left < right"):
        draw(JORDAN, [0.1], window=(1, 0, 0, 1))
    with pytest.raises(InputError, match="epsilon"):
        draw(JORDAN, [1e-18])
    with pytest.raises(InputError, match="at least one"):
        draw(JORDAN, [])
    with pytest.raises(InputError, match="points"):
        draw(JORDAN, [0.1], points=1)


def test_a_projection_bounds_from_above_and_is_exact_when_nothing_is_left_out():
    matrix = np.diag(np.arange(1.0, 81)) + 0.3 * np.triu(gaussian(80), 1)
    z = np.linspace(30, 34, 5) + 1j * np.linspace(-1, 1, 4)[:, None]
    exact, found = solve(matrix, z), project(matrix, z)
    assert 20 <= found.kept < 30 and found.of == 80 and found.values.shape == z.shape
    assert (found.values >= exact * (1 - 1e-9)).all() and (found.values <= 1.05 * exact).all()
    assert (project(matrix, z, least=40).values <= found.values * (1 + 1e-9)).all()
    everything = project(matrix, z, least=80)
    assert everything.kept == 80
    np.testing.assert_allclose(everything.values, exact, rtol=1e-9)
    single = project(matrix, [31.2], least=1)
    assert single.kept >= 1 and single.values >= solve(matrix, [31.2]) * (1 - 1e-9)


def test_projections_refuse_nothing_and_infinity():
    for points in ([], [np.inf]):
        with pytest.raises(InputError, match="finite complex numbers"):
            project(JORDAN, points)
    with pytest.raises(InputError, match="least"):
        project(JORDAN, [1.0], least=0)


@pytest.mark.slow
def test_two_thousand_rows_fit_in_memory():
    import resource

    matrix = gaussian(2000)
    z = np.linspace(0.9, 1.1, 10) + 1j * np.linspace(0, 0.1, 5)[:, None]
    found = project(matrix, z, least=100)
    assert (found.values >= solve(matrix, z) * (1 - 1e-6)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # kilobytes
