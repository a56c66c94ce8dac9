"""The inverse Lanczos of ``_lanczos``, compiled: W shifts at a time, one per lane of a vector register. Importing this imports Numba.

A tile holds the vectors of W shifts as rows of W real and W imaginary parts. A triangular solve goes down four rows at a time: eight
registers gather the products with all rows before (per entry of T four products for W shifts: T is read once per tile, in the order
it is packed in), then the 4 x 4 diagonal block is eliminated. That runs near the peak of the machine, out of the second-level cache.
A lane whose point has converged takes the next point from the queue, so the spread of steps costs nothing. Single thread; the caller
splits the points. Rows are padded to a multiple of four with zeros.

Values are first sought wholly in single precision, where a register holds twice the points, and then in double from the Ritz vector
found, which meets the same stopping rule in a single step almost always: the guarantee is that of the pass in double. A point near the
spectrum, or one that overflows or stalls, begins anew in double; so do all where the tolerance is below single precision. One code
serves both: the type of an array decides. Neighbouring points never lend their vectors: those are blind to a branch that crosses.
"""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from brittle.spectra._lanczos import LAGUERRE, RESIDUAL, SAFETY, STEPS, start_vector
from brittle.spectra._lanes import (
    W,
    any_greater,
    load,
    load_as,
    minus_times,
    plus_times,
    root,
    spread,
    spread_load,
    store,
    where_greater,
    width,
)
from brittle.spectra._matrix import UNIT
from brittle.spectra._schur import ROWS, Complex, Factored, Real

_inner: Any = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # called from here alone
_compiled = njit(**_inner)


def _cached(function):
    """Compiled, and kept on disk: in __pycache__ where that can be written, else in the user's cache folder, else not at all."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)


SINGLE_STEPS = 128  # of the pass in single precision; what has not converged by then is left to the one in double
SINGLE_SHARE = 4e-6  # the least residual that is asked of it: 64 units of rounding
SUNK = (
    2.0**24 / 1e3
) ** 2  # it leaves points below 1000 units of rounding of ||A|| alone: its matrix is off by up to one or two
RESTARTS = 3  # steps in double from its Ritz vector; all but few points need one

Tile = namedtuple("Tile", "now before half inverse alphas betas alpha beta coupling theta residual scale taken")


@_compiled
def _aligned(size, like):
    """Zeros of the type of ``like`` that start at a cache line."""
    spare = 64 // like.itemsize
    raw = np.zeros(size + spare, like.dtype)
    skip = (-raw.ctypes.data % 64) // like.itemsize
    return raw[skip : skip + size]


@_compiled
def _tile(n, steps, packed):
    """A register of points: their vectors in the precision of ``packed``, their tridiagonal matrices in double."""
    wide, numbers = width(packed), np.zeros(1)
    long, deep = 2 * wide * ((n + ROWS - 1) // ROWS * ROWS), (steps + 1) * wide
    return Tile(
        _aligned(long, packed),
        _aligned(long, packed),
        _aligned(long, packed),
        _aligned(long, packed),
        _aligned(deep, numbers),
        _aligned(deep, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
        _aligned(wide, numbers),
    )


@_compiled
def _gather(packed, at, x, first, stride, count, c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i):
    """Add four packed rows times the first ``count`` rows of x, complex, in all lanes."""
    for _ in range(count):
        xr, xi = load(x, first), load(x, first + width(x))
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
    a, b = load(inverse, j), load(inverse, j + width(x)) * sign
    xr, xi = minus_times(cr * a, ci, b), plus_times(ci * a, cr, b)
    store(x, j, xr)
    store(x, j + width(x), xi)
    return xr, xi


@_compiled
def _eliminate(packed, at, row, cr, ci, xr, xi):
    """One entry of the diagonal block times a solved row."""
    a, b = spread_load(packed, at + row), spread_load(packed, at + row + 4)
    return minus_times(plus_times(cr, a, xr), b, xi), plus_times(plus_times(ci, a, xi), b, xr)


@_compiled
def _sweep(packed, inverse, x, first, stride, conjugate):
    """Solve (D - L) y = x in place, row by row from ``first``; L is packed, 1 / D is ``inverse``. Returns the squared norms."""
    wide, at, j = width(x), 0, first
    total, sign = spread(x, 0.0), spread(x, -1.0 if conjugate else 1.0)
    for done in range(0, len(x) // (2 * wide), ROWS):
        j1, j2, j3 = j + stride, j + 2 * stride, j + 3 * stride
        c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i = _gather(
            packed, at, x, first, stride, done,
            load(x, j), load(x, j + wide), load(x, j1), load(x, j1 + wide),
            load(x, j2), load(x, j2 + wide), load(x, j3), load(x, j3 + wide),
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
def _ritz(tile, at, count):
    """Largest eigenvalue of W lanes' tridiagonal matrices and the residuals beta |last entry|; see ``_lanczos.largest_ritz``.

    No lane sees the others: it skips the rows that it has not come to (they hold zeros) and stops by itself.
    """
    wide, one, zero, taken = width(tile.now), spread(tile.theta, 1.0), spread(tile.theta, 0.0), load(tile.taken, at)
    alpha, previous, coupling = load(tile.alpha, at), load(tile.theta, at), load(tile.coupling, at)
    half, middle = spread(tile.theta, 0.5) * (previous - alpha), spread(tile.theta, 0.5) * (previous + alpha)
    x = (middle + root(plus_times(coupling * coupling, half, half))) * spread(tile.theta, 1 + 1e-15)
    two, tiny = spread(tile.theta, 2.0), spread(tile.theta, 1e-10)
    moving, last = where_greater(taken, one, one, zero), one  # of a first step the Ritz value is alpha, which is x
    for _ in range(LAGUERRE):
        inverse = one / (load(tile.alphas, at) - x)
        slope, first, second = zero - one, zero - inverse, zero
        sums, squares, own = first, first * first, slope
        for j in range(1, count):
            row, b = spread(tile.theta, float(j)), load(tile.betas, (j - 1) * wide + at)
            shared = b * b * inverse
            inverse = one / (load(tile.alphas, j * wide + at) - x - shared)
            slope = minus_times(shared * first, one, one)
            second = shared * (second - two * first * first) * inverse
            first = slope * inverse
            own = where_greater(taken, row, slope, own)
            sums = where_greater(taken, row, sums + first, sums)
            squares = where_greater(taken, row, squares + (first * first - second), squares)
        inside = (taken - one) * minus_times(taken * squares, sums, sums)
        step = taken / (sums + root(where_greater(inside, zero, inside, zero)))
        last = where_greater(moving, zero, zero - own, last)
        x = where_greater(moving * step, zero, x - step, x)
        moving = where_greater(step, tiny * x, moving, zero)
        if not any_greater(moving, zero):
            break
    store(tile.theta, at, where_greater(previous, x, previous, x))
    store(tile.residual, at, load(tile.beta, at) / root(last))


@_compiled
def _step(forward, backward, tile):
    """One Lanczos step of every lane: two solves, the three-term recurrence, the Ritz value."""
    wide, n, scale = width(tile.now), len(tile.now), load_as(tile.now, tile.scale, 0)
    for j in range(0, n, wide):
        v = load(tile.now, j) * scale
        store(tile.now, j, v)
        store(tile.half, j, v)
    alpha = _sweep(forward, tile.inverse, tile.half, 0, 2 * wide, True)
    _sweep(backward, tile.inverse, tile.half, n - 2 * wide, -2 * wide, False)
    coupling, beta = load_as(tile.now, tile.beta, 0), spread(tile.now, 0.0)
    for j in range(0, n, wide):
        v = load(tile.now, j)
        w = minus_times(minus_times(load(tile.half, j), alpha, v), coupling, load(tile.before, j))
        beta = plus_times(beta, w, w)
        store(tile.before, j, v)
        store(tile.now, j, w)
    beta = root(beta)
    store(tile.coupling, 0, coupling)
    store(tile.alpha, 0, alpha)
    store(tile.beta, 0, beta)
    zero = spread(tile.now, 0.0)
    store(tile.scale, 0, where_greater(beta, zero, spread(tile.now, 1.0) / beta, zero))
    deepest = 0
    for lane in range(wide):
        k = int(tile.taken[lane])
        tile.alphas[k * wide + lane] = tile.alpha[lane]
        if k:
            tile.betas[(k - 1) * wide + lane] = tile.coupling[lane]
        tile.taken[lane] = k + 1
        deepest = max(deepest, k + 1)
    for at in range(0, wide, W):
        _ritz(tile, at, deepest)


@_compiled
def _reset(tile, lane, scale):
    wide = width(tile.now)
    for k in range(int(tile.taken[lane]) + 1):
        tile.alphas[k * wide + lane], tile.betas[k * wide + lane] = 0.0, 0.0
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
    tile, spare = _tile(len(eigenvalues), steps, forward), np.empty(2 * len(eigenvalues))
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
    pivots, theta, wide = np.empty(depth), tile.theta[lane], width(tile.now)
    pivots[0] = tile.alphas[lane] - theta
    for k in range(1, depth):
        b = tile.betas[(k - 1) * wide + lane]
        pivots[k] = tile.alphas[k * wide + lane] - theta - b * b / pivots[k - 1]
    entry, largest = 1.0, 1.0
    weights[(depth - 1) * wide + lane] = entry
    for k in range(depth - 2, -1, -1):
        entry *= -tile.betas[k * wide + lane] / pivots[k]
        largest = max(largest, abs(entry))
        weights[k * wide + lane] = entry
    for k in range(depth):
        weights[k * wide + lane] /= largest


@_compiled
def _begin(tile, points, first, eigenvalues, unit, least):
    """A register of points from ``first`` on (the last one again where they end), in units of ``unit``: 1 / (z - t_ii), no vector yet."""
    wide, n = width(tile.now), len(eigenvalues)
    for lane in range(wide):
        z = points[min(first + lane, len(points) - 1)]
        tile.alpha[lane], tile.beta[lane] = z.real, z.imag
    zero, one, least_square = spread(tile.alpha, 0.0), spread(tile.alpha, unit), spread(tile.alpha, least * least)
    for at in range(0, wide, W):
        zr, zi = load(tile.alpha, at), load(tile.beta, at)
        for i in range(n):
            a, b = zr - spread(tile.alpha, eigenvalues[i].real), zi - spread(tile.alpha, eigenvalues[i].imag)
            size = plus_times(a * a, b, b)
            a, b = (
                where_greater(least_square, size, spread(tile.alpha, least), a),
                where_greater(least_square, size, zero, b),
            )
            factor = one / where_greater(least_square, size, least_square, size)
            store(tile.inverse, 2 * wide * i + at, a * factor)
            store(tile.inverse, 2 * wide * i + wide + at, (zero - b) * factor)
    for j in range(len(tile.before)):
        tile.before[j] = 0.0
    for lane in range(wide):
        _reset(tile, lane, 1.0)


@_compiled
def _set_start(tile, start):
    wide = width(tile.now)
    for i in range(len(start)):
        store(tile.now, 2 * wide * i, spread(tile.now, start[i].real))
        store(tile.now, 2 * wide * i + wide, spread(tile.now, start[i].imag))


@_compiled
def _ritz_vectors(forward, backward, tile, basis, weights, found, share, sunk, steps):
    """Lanczos of all lanes together until the last has come to its end; what a lane gets depends on its own point alone.

    Leaves the Ritz vectors, not normalised, in ``tile.half`` and the Ritz values in ``found`` (NaN: sunk or given up).
    """
    wide, long, ended, k = width(tile.now), len(tile.now), 0, 0
    for j in range(len(weights)):
        weights[j] = 0.0
    for lane in range(wide):
        found[lane] = 0.0
    while ended < wide:
        _step(forward, backward, tile)
        for j in range(0, long, wide):
            store(basis, k * long + j, load(tile.before, j))
        k += 1
        for lane in range(wide):
            state = _state(tile, lane, share, sunk, steps) if found[lane] == 0 else 0
            if state:
                found[lane] = tile.theta[lane] if state == 1 else np.nan
                _weigh(tile, lane, k, weights)
                ended += 1
    for j in range(0, long, wide):
        store(tile.half, j, spread(tile.half, 0.0))
    for step in range(k):
        weight = load_as(tile.now, weights, step * wide)
        for j in range(0, long, wide):
            store(tile.half, j, plus_times(load(tile.half, j), weight, load(basis, step * long + j)))
    return k


@_compiled
def _normalised(x, squares):
    scale = spread(x, 1.0) / root(squares)
    for j in range(0, len(x), width(x)):
        store(x, j, load(x, j) * scale)


@_cached
def _vectors(forward, backward, eigenvalues, start, points, share, least, sunk, steps, values, left, right):
    """The same with singular vectors: W points at a time, whose Lanczos vectors are kept; NaN also where a value is below the floor.

    The Ritz vector is refined by half a step of inverse iteration on each side, after which (zI - T) v = s u to rounding.
    """
    n, tile = len(eigenvalues), _tile(len(eigenvalues), steps, forward)
    long = len(tile.now)
    basis, weights, norms, found = (
        _aligned(steps * long, forward),
        _aligned(steps * W, forward),
        np.empty(W),
        np.empty(W),
    )
    for begin in range(0, len(points), W):
        used = min(W, len(points) - begin)
        _begin(tile, points, begin, eigenvalues, 1.0, least)
        _set_start(tile, start)
        _ritz_vectors(forward, backward, tile, basis, weights, found, share, sunk, steps)
        _normalised(tile.half, _sweep(forward, tile.inverse, tile.half, 0, 2 * W, True))
        for lane in range(used):
            for i in range(n):
                left[begin + lane, i] = complex(tile.half[2 * W * i + lane], tile.half[2 * W * i + W + lane])
        squares = _sweep(backward, tile.inverse, tile.half, long - 2 * W, -2 * W, False)
        _normalised(tile.half, squares)
        store(norms, 0, spread(norms, 1.0) / root(squares))
        for lane in range(used):
            values[begin + lane] = norms[lane] if found[lane] > 0 else np.nan
            for i in range(n):
                right[begin + lane, i] = complex(tile.half[2 * W * i + lane], tile.half[2 * W * i + W + lane])


@_compiled
def _restart(tile, at, single):
    """Take over the vectors of W lanes of a tile in single precision, from lane ``at`` on."""
    squares = spread(tile.now, 0.0)
    for j in range(0, len(tile.now), W):
        v = load_as(tile.now, single.half, 2 * j + at)
        squares = plus_times(squares, v, v)
        store(tile.now, j, v)
    store(tile.scale, 0, spread(tile.now, 1.0) / root(squares))


@_compiled
def _settle(forward, backward, tile, guesses, share, sunk, values):
    """Steps in double from a Ritz vector until the residual is small; NaN where it is not, or the value is not the one expected."""
    used, ended = len(values), 0
    for lane in range(used):
        values[lane] = 0.0
    while ended < used:
        _step(forward, backward, tile)
        for lane in range(used):
            state = _state(tile, lane, share, sunk, RESTARTS) if values[lane] == 0 else 0
            if state:
                theta = tile.theta[lane]
                agree = state == 1 and abs(theta - guesses[lane]) <= share * theta
                values[lane] = 1 / np.sqrt(theta) if agree else np.nan
                ended += 1


@_cached
def _two_passes(forward, backward, singles, eigenvalues, start, points, unit, share, least, sunk, steps, values):
    """Lanczos in single precision on unit (zI - T), 2 W points at a time, then in double from its Ritz vectors.

    NaN where that leaves a point open: ``_values`` begins it anew. What is accepted has met the same residual in double, and a value
    within ``share`` of the one in single precision: rounding has not exchanged two branches of singular values further apart than that.
    """
    n, (forward_single, backward_single) = len(eigenvalues), singles
    single, double = _tile(n, steps, forward_single), _tile(n, RESTARTS, forward)
    basis, weights = np.empty(steps * len(single.now), forward_single.dtype), np.empty(steps * 2 * W)
    guesses = np.empty(2 * W)
    for begin in range(0, len(points), 2 * W):
        _begin(single, points, begin, eigenvalues, 1 / unit, least)
        _set_start(single, start)
        _ritz_vectors(forward_single, backward_single, single, basis, weights, guesses, share, SUNK, steps)
        for lane in range(2 * W):
            guesses[lane] *= unit * unit
        for first in range(begin, min(begin + 2 * W, len(points)), W):
            _begin(double, points, first, eigenvalues, 1.0, least)
            _restart(double, first - begin, single)
            own = values[first : min(first + W, len(points))]
            _settle(forward, backward, double, guesses[first - begin :], share, sunk, own)


def inverse_lanczos(
    factored: Factored, points: Complex, tolerance: float, vectors: bool, threads: int = 1
) -> tuple[Real, Complex, Complex]:
    """As ``_lanczos.inverse_lanczos``."""
    n, m = len(factored.triangular), len(points)
    values, width = np.empty(m), n if vectors else 0
    left, right = np.empty((m, width), np.complex128), np.empty((m, width), np.complex128)
    share = max(2 * SAFETY * tolerance, RESIDUAL)
    limits = share, max(UNIT * factored.norm, 1e-150), 1 / max(factored.floor, 1e-150) ** 2
    given = *factored.packed, factored.eigenvalues, start_vector(n)

    def part(k: int) -> None:
        own = slice(m * k // threads, m * (k + 1) // threads)
        if vectors:
            _vectors(*given, points[own], *limits, STEPS, values[own], left[own], right[own])
            return
        if share >= SINGLE_SHARE:
            _two_passes(
                *given[:2], factored.packed_single, *given[2:], points[own], factored.unit, *limits,
                min(SINGLE_STEPS, STEPS), values[own],
            )  # fmt: skip
        else:
            values[own] = np.nan
        rest = own.start + np.flatnonzero(np.isnan(values[own]))
        if len(rest):
            again = np.empty(len(rest))
            _values(*given, points[rest], *limits, STEPS, again)
            values[rest] = again

    if threads == 1:
        part(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, range(threads)))
    return values, left, right
