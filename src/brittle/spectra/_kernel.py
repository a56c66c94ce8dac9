"""The inverse Lanczos of ``_lanczos``, compiled: W shifts at a time, one per lane of a vector register. Importing this imports Numba.

A tile holds the vectors of W shifts as rows of W real and W imaginary parts. A triangular solve goes down four rows at a time: eight
registers gather the products with all rows before (per entry of T four products for W shifts: T is read once per tile, in the order
it is packed in), then the 4 x 4 diagonal block is eliminated. That runs near the peak of the machine, out of the second-level cache.
A lane whose point has converged takes the next point from the queue, so the spread of steps costs nothing. Single thread; the caller
splits the points. Rows are padded to a multiple of four with zeros.
"""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from brittle.spectra._lanczos import LAGUERRE, RESIDUAL, SAFETY, STEPS, start_vector
from brittle.spectra._lanes import (
    W,
    any_greater,
    load,
    minus_times,
    plus_times,
    root,
    spread,
    spread_load,
    store,
    where_greater,
)
from brittle.spectra._matrix import UNIT
from brittle.spectra._schur import ROWS, Complex, Factored, Real

_compiled = njit(nogil=True, error_model="numpy")


def _cached(function):
    """Compiled, and kept on disk: in __pycache__ where that can be written, else in the user's cache folder, else not at all."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return _compiled(function)


Tile = namedtuple("Tile", "now before half inverse alphas betas alpha beta coupling theta residual scale taken")


@_compiled
def _aligned(size):
    """Zeros that start at a cache line."""
    raw = np.zeros(size + 8)
    skip = (-raw.ctypes.data % 64) // 8
    return raw[skip : skip + size]


@_compiled
def _tile(rows, steps):
    long, deep = 2 * W * rows, (steps + 1) * W
    return Tile(
        _aligned(long),
        _aligned(long),
        _aligned(long),
        _aligned(long),
        _aligned(deep),
        _aligned(deep),
        _aligned(W),
        _aligned(W),
        _aligned(W),
        _aligned(W),
        _aligned(W),
        _aligned(W),
        _aligned(W),
    )


@_compiled
def _gather(packed, at, x, first, stride, count, c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i):
    """Add four packed rows times the first ``count`` rows of x, complex, in W lanes."""
    for _ in range(count):
        xr, xi = load(x, first), load(x, first + W)
        first += stride
        a, b = spread_load(packed, at), spread_load(packed, at + 4)
        c0r = minus_times(plus_times(c0r, a, xr), b, xi)
        c0i = plus_times(plus_times(c0i, a, xi), b, xr)
        a, b = spread_load(packed, at + 1), spread_load(packed, at + 5)
        c1r = minus_times(plus_times(c1r, a, xr), b, xi)
        c1i = plus_times(plus_times(c1i, a, xi), b, xr)
        a, b = spread_load(packed, at + 2), spread_load(packed, at + 6)
        c2r = minus_times(plus_times(c2r, a, xr), b, xi)
        c2i = plus_times(plus_times(c2i, a, xi), b, xr)
        a, b = spread_load(packed, at + 3), spread_load(packed, at + 7)
        c3r = minus_times(plus_times(c3r, a, xr), b, xi)
        c3i = plus_times(plus_times(c3i, a, xi), b, xr)
        at += 8
    return c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i


@_compiled
def _divide(x, inverse, j, sign, cr, ci):
    """Multiply one row by the reciprocals of its diagonal (conjugate for sign = -1) and store it."""
    a, b = load(inverse, j), load(inverse, j + W) * sign
    xr, xi = minus_times(cr * a, ci, b), plus_times(ci * a, cr, b)
    store(x, j, xr)
    store(x, j + W, xi)
    return xr, xi


@_compiled
def _eliminate(packed, at, row, cr, ci, xr, xi):
    """One entry of the diagonal block times a solved row."""
    a, b = spread_load(packed, at + row), spread_load(packed, at + row + 4)
    return minus_times(plus_times(cr, a, xr), b, xi), plus_times(plus_times(ci, a, xi), b, xr)


@_compiled
def _sweep(packed, inverse, x, first, stride, conjugate):
    """Solve (D - L) y = x in place, row by row from ``first``; L is packed, 1 / D is ``inverse``. Returns the squared norms."""
    at, total, sign, j = 0, spread(0.0), spread(-1.0 if conjugate else 1.0), first
    for done in range(0, len(x) // (2 * W), ROWS):
        j1, j2, j3 = j + stride, j + 2 * stride, j + 3 * stride
        c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i = _gather(
            packed, at, x, first, stride, done,
            load(x, j), load(x, j + W), load(x, j1), load(x, j1 + W),
            load(x, j2), load(x, j2 + W), load(x, j3), load(x, j3 + W),
        )  # fmt: skip
        at += 8 * done
        xr, xi = _divide(x, inverse, j, sign, c0r, c0i)
        total = plus_times(plus_times(total, xr, xr), xi, xi)
        c1r, c1i = _eliminate(packed, at, 1, c1r, c1i, xr, xi)
        c2r, c2i = _eliminate(packed, at, 2, c2r, c2i, xr, xi)
        c3r, c3i = _eliminate(packed, at, 3, c3r, c3i, xr, xi)
        xr, xi = _divide(x, inverse, j1, sign, c1r, c1i)
        total = plus_times(plus_times(total, xr, xr), xi, xi)
        c2r, c2i = _eliminate(packed, at + 8, 2, c2r, c2i, xr, xi)
        c3r, c3i = _eliminate(packed, at + 8, 3, c3r, c3i, xr, xi)
        xr, xi = _divide(x, inverse, j2, sign, c2r, c2i)
        total = plus_times(plus_times(total, xr, xr), xi, xi)
        c3r, c3i = _eliminate(packed, at + 16, 3, c3r, c3i, xr, xi)
        xr, xi = _divide(x, inverse, j3, sign, c3r, c3i)
        total = plus_times(plus_times(total, xr, xr), xi, xi)
        at += 8 * ROWS
        j += ROWS * stride
    return total


@_compiled
def _ritz(tile, count):
    """Largest eigenvalue of each lane's tridiagonal matrix and the residual beta |last entry|; see ``_lanczos.largest_ritz``.

    No lane sees the others: it skips the rows that it has not come to (they hold zeros) and stops by itself.
    """
    one, zero, taken = spread(1.0), spread(0.0), load(tile.taken, 0)
    alpha, previous, coupling = load(tile.alpha, 0), load(tile.theta, 0), load(tile.coupling, 0)
    half, middle = spread(0.5) * (previous - alpha), spread(0.5) * (previous + alpha)
    x = (middle + root(plus_times(coupling * coupling, half, half))) * spread(1 + 1e-15)
    moving, last = where_greater(taken, one, one, zero), one  # of a first step the Ritz value is alpha, which is x
    for _ in range(LAGUERRE):
        inverse = one / (load(tile.alphas, 0) - x)
        slope, first, second = zero - one, zero - inverse, zero
        sums, squares, own = first, first * first, slope
        for j in range(1, count):
            row, b = spread(float(j)), load(tile.betas, (j - 1) * W)
            shared = b * b * inverse
            inverse = one / (load(tile.alphas, j * W) - x - shared)
            slope = minus_times(shared * first, one, one)
            second = shared * (second - spread(2.0) * first * first) * inverse
            first = slope * inverse
            own = where_greater(taken, row, slope, own)
            sums = where_greater(taken, row, sums + first, sums)
            squares = where_greater(taken, row, squares + (first * first - second), squares)
        inside = (taken - one) * minus_times(taken * squares, sums, sums)
        step = taken / (sums + root(where_greater(inside, zero, inside, zero)))
        last = where_greater(moving, zero, zero - own, last)
        x = where_greater(moving * step, zero, x - step, x)
        moving = where_greater(step, spread(1e-10) * x, moving, zero)
        if not any_greater(moving, zero):
            break
    store(tile.theta, 0, where_greater(previous, x, previous, x))
    store(tile.residual, 0, load(tile.beta, 0) / root(last))


@_compiled
def _step(forward, backward, tile):
    """One Lanczos step of every lane: two solves, the three-term recurrence, the Ritz value."""
    scale, n = load(tile.scale, 0), len(tile.now)
    for j in range(0, n, W):
        v = load(tile.now, j) * scale
        store(tile.now, j, v)
        store(tile.half, j, v)
    alpha = _sweep(forward, tile.inverse, tile.half, 0, 2 * W, True)
    _sweep(backward, tile.inverse, tile.half, n - 2 * W, -2 * W, False)
    coupling, beta = load(tile.beta, 0), spread(0.0)
    for j in range(0, n, W):
        v = load(tile.now, j)
        w = minus_times(minus_times(load(tile.half, j), alpha, v), coupling, load(tile.before, j))
        beta = plus_times(beta, w, w)
        store(tile.before, j, v)
        store(tile.now, j, w)
    beta = root(beta)
    store(tile.coupling, 0, coupling)
    store(tile.alpha, 0, alpha)
    store(tile.beta, 0, beta)
    store(tile.scale, 0, where_greater(beta, spread(0.0), spread(1.0) / beta, spread(0.0)))
    deepest = 0
    for lane in range(W):
        k = int(tile.taken[lane])
        tile.alphas[k * W + lane] = tile.alpha[lane]
        if k:
            tile.betas[(k - 1) * W + lane] = tile.coupling[lane]
        tile.taken[lane] = k + 1
        deepest = max(deepest, k + 1)
    _ritz(tile, deepest)


@_compiled
def _reset(tile, lane, scale):
    for k in range(int(tile.taken[lane]) + 1):
        tile.alphas[k * W + lane], tile.betas[k * W + lane] = 0.0, 0.0
    tile.taken[lane], tile.theta[lane], tile.beta[lane], tile.scale[lane] = 0.0, 0.0, 0.0, scale


@_compiled
def _fill(tile, lane, z, eigenvalues, start, least, spare):
    """Begin a point in a lane."""
    n = len(eigenvalues)
    for i in range(n):
        gap = z - eigenvalues[i]
        size = gap.real * gap.real + gap.imag * gap.imag
        near = size < least * least
        spare[i] = 1 / least if near else gap.real / size
        spare[n + i] = 0.0 if near else -gap.imag / size
    for i in range(n):
        j = 2 * W * i + lane
        tile.inverse[j], tile.inverse[j + W] = spare[i], spare[n + i]
        tile.now[j], tile.now[j + W] = start[i].real, start[i].imag
        tile.before[j], tile.before[j + W] = 0.0, 0.0
    _reset(tile, lane, 1.0)


@_compiled
def _park(tile, lane):
    """Nothing left for a lane: it goes on with a zero vector."""
    for i in range(lane, len(tile.now), W):
        tile.now[i], tile.before[i] = 0.0, 0.0
    _reset(tile, lane, 0.0)


@_compiled
def _state(tile, lane, share, sunk, steps):
    """0: go on; 1: converged; 2: below the floor, or overflowed on the way there; 3: given up."""
    if not tile.alpha[lane] < sunk:  # or NaN
        return 2
    if tile.residual[lane] <= share * tile.theta[lane]:
        return 1
    return 3 if tile.taken[lane] >= steps else 0


@_cached
def _values(forward, backward, eigenvalues, start, points, share, least, sunk, steps, values):
    """Fill ``values`` (NaN: given up, 0: below the floor). Returns the number of steps of all points."""
    tile, spare = _tile((len(eigenvalues) + ROWS - 1) // ROWS * ROWS, steps), np.empty(2 * len(eigenvalues))
    owner, queue, active, total = np.full(W, -1), min(W, len(points)), min(W, len(points)), 0
    for lane in range(active):
        _fill(tile, lane, points[lane], eigenvalues, start, least, spare)
        owner[lane] = lane
    while active:
        _step(forward, backward, tile)
        for lane in range(W):
            state = _state(tile, lane, share, sunk, steps)
            if owner[lane] < 0:
                tile.taken[lane] = 0.0
            elif state:
                values[owner[lane]] = 1 / np.sqrt(tile.theta[lane]) if state == 1 else 0.0 if state == 2 else np.nan
                total += int(tile.taken[lane])
                if queue < len(points):
                    _fill(tile, lane, points[queue], eigenvalues, start, least, spare)
                    owner[lane] = queue
                    queue += 1
                else:
                    _park(tile, lane)
                    owner[lane] = -1
                    active -= 1
    return total


@_compiled
def _weigh(tile, lane, depth, weights):
    """The eigenvector of a lane's tridiagonal matrix, by back substitution from its last entry; see ``_lanczos.ritz_vector``."""
    pivots, theta = np.empty(depth), tile.theta[lane]
    pivots[0] = tile.alphas[lane] - theta
    for k in range(1, depth):
        b = tile.betas[(k - 1) * W + lane]
        pivots[k] = tile.alphas[k * W + lane] - theta - b * b / pivots[k - 1]
    entry, largest = 1.0, 1.0
    weights[(depth - 1) * W + lane] = entry
    for k in range(depth - 2, -1, -1):
        entry *= -tile.betas[k * W + lane] / pivots[k]
        largest = max(largest, abs(entry))
        weights[k * W + lane] = entry
    for k in range(depth):
        weights[k * W + lane] /= largest


@_compiled
def _normalised(x, squares):
    scale = spread(1.0) / root(squares)
    for j in range(0, len(x), W):
        store(x, j, load(x, j) * scale)


@_cached
def _vectors(forward, backward, eigenvalues, start, points, share, least, sunk, steps, values, left, right):
    """The same with singular vectors: W points at a time, whose Lanczos vectors are kept; NaN also where a value is below the floor.

    The Ritz vector is refined by half a step of inverse iteration on each side, after which (zI - T) v = s u to rounding.
    """
    n = len(eigenvalues)
    tile, spare = _tile((n + ROWS - 1) // ROWS * ROWS, steps), np.empty(2 * n)
    long = len(tile.now)
    basis, weights, norms = _aligned(steps * long), _aligned(steps * W), _aligned(W)
    for begin in range(0, len(points), W):
        used = min(W, len(points) - begin)
        depth, theta = np.zeros(W, np.int64), np.zeros(W)
        weights[:] = 0.0
        for lane in range(W):
            _fill(tile, lane, points[begin + min(lane, used - 1)], eigenvalues, start, least, spare)
        for k in range(steps):
            _step(forward, backward, tile)
            basis[k * long : (k + 1) * long] = tile.before
            for lane in range(W):
                state = _state(tile, lane, share, sunk, steps) if depth[lane] == 0 else 0
                if state:
                    depth[lane] = k + 1
                    theta[lane] = np.nan if state > 1 else 1.0
                    _weigh(tile, lane, k + 1, weights)
            if depth.min() > 0:
                break
        tile.half[:] = 0.0
        for k in range(depth.max()):
            share_of_step = load(weights, k * W)
            for j in range(0, long, W):
                store(tile.half, j, plus_times(load(tile.half, j), share_of_step, load(basis, k * long + j)))
        _normalised(tile.half, _sweep(forward, tile.inverse, tile.half, 0, 2 * W, True))
        for lane in range(used):
            for i in range(n):
                left[begin + lane, i] = complex(tile.half[2 * W * i + lane], tile.half[2 * W * i + W + lane])
        squares = _sweep(backward, tile.inverse, tile.half, long - 2 * W, -2 * W, False)
        _normalised(tile.half, squares)
        store(norms, 0, spread(1.0) / root(squares))
        for lane in range(used):
            values[begin + lane] = norms[lane] * theta[lane]
            for i in range(n):
                right[begin + lane, i] = complex(tile.half[2 * W * i + lane], tile.half[2 * W * i + W + lane])


def inverse_lanczos(
    factored: Factored, points: Complex, tolerance: float, vectors: bool, threads: int = 1
) -> tuple[Real, Complex, Complex]:
    """As ``_lanczos.inverse_lanczos``."""
    n, m = len(factored.triangular), len(points)
    values, width = np.empty(m), n if vectors else 0
    left, right = np.empty((m, width), np.complex128), np.empty((m, width), np.complex128)
    share = max(2 * SAFETY * tolerance, RESIDUAL)
    limits = share, max(UNIT * factored.norm, 1e-150), 1 / max(factored.floor, 1e-150) ** 2, STEPS
    given = *factored.packed, factored.eigenvalues, start_vector(n)

    def part(k: int) -> None:
        own = slice(m * k // threads, m * (k + 1) // threads)
        if vectors:
            _vectors(*given, points[own], *limits, values[own], left[own], right[own])
        else:
            _values(*given, points[own], *limits, values[own])

    if threads == 1:
        part(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, range(threads)))
    return values, left, right
