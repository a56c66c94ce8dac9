"""Lines through random noise along design directions, and the exact mass of the failures on each of them (Gaussian noise)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

import torch
from torch import Tensor

from brittle import norms
from brittle.laws import Gaussian, Law
from brittle.noise._design import Design, rows_at, settled
from brittle.noise._rare import NUMBERS
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.spec import margin

BEYOND = 3.0  # lines are scanned that far beyond the design point and its mirror image: less than exp(-3 beta) of p lies outside
APART = (
    1.25  # standard deviations between the points of the scan (folklore); a failure set thinner than that can be missed
)
ROOT = 6  # Illinois steps on each crossing


@dataclass(frozen=True, eq=False)
class Bundle:
    """Lines of several lanes: which lane and example (M,), and the rows that each lane answers for (L, R). By leaf: a point of each line
    (M, D), where its noise is orthogonal to the direction, and one standard deviation along the direction of each lane (L, D)."""

    lane: Tensor
    example: Tensor
    start: dict[str, Tensor]
    direction: dict[str, Tensor]
    rows: Tensor


def straight(laws: Mapping[str, Law]) -> bool:
    """Whether lines have a closed-form mass: all noise Gaussian."""
    return all(isinstance(law, Gaussian) for law in laws.values())


def own_rows(design: Design, rows: int, count: int, rank: int) -> Tensor:
    """(L, R) bool: the lane's own row; the nearest lane of an example also answers for all rows that have no lane."""
    own = torch.zeros(len(design.row), rows, dtype=torch.bool)
    if rank > 1:
        return ~own
    own[torch.arange(len(design.row)), design.row] = True
    taken = torch.zeros(count, rows, dtype=torch.bool)
    taken[design.example, design.row] = True
    main = main_lanes(design, count)
    for lane in main[main >= 0].tolist():
        own[lane] |= ~taken[design.example[lane]]
    return own


def main_lanes(design: Design, count: int) -> Tensor:
    """(count,) the lane of smallest beta, -1 for none."""
    best = torch.full((count,), -1, dtype=torch.long)
    nearest = design.nearest(count)
    for lane in reversed(range(len(design.row))):
        if design.beta[lane] == nearest[design.example[lane]]:
            best[design.example[lane]] = lane
    return best


def cast(
    question: Problem, laws: Mapping[str, Law], design: Design, own: Tensor, lines: Sequence[int], seed: int, name: str
) -> Bundle:
    """``lines[l]`` random lines for each lane l; ``name`` separates the draws of one method from those of another."""
    shift = {k: _normal(law).gathered(design.tilt[k]) for k, law in laws.items()}
    length = torch.stack([v.square().sum(1) for v in shift.values()]).sum(0).sqrt().clamp_min(1e-300)
    direction = {k: v / length[:, None] for k, v in shift.items()}
    lane = torch.repeat_interleave(torch.arange(len(lines)), torch.tensor(lines, dtype=torch.long))
    example, start = design.example[lane], {}
    normal = {k: torch.empty(len(lane), v.shape[1]) for k, v in direction.items()}  # float32, as all tilted draws
    for i, rows in enumerate(torch.arange(len(lane)).split(lines)):
        for k, v in normal.items():
            source = generator(seed, name, k, int(question.index[design.example[i]]), int(design.row[i]))
            torch.randn(
                (len(rows), v.shape[1]), generator=source, out=v[rows[0] : rows[0] + len(rows)] if len(rows) else v[:0]
            )
    along = torch.stack([(normal[k] * direction[k][lane]).sum(1) for k in laws]).sum(0)
    for k, law in laws.items():
        centre = norms.flat(question.centre[k]).cpu().double()[example]
        start[k] = centre + _normal(law).spread(normal[k] - along[:, None] * direction[k][lane])
    return Bundle(lane, example, start, {k: _normal(law).spread(direction[k]) for k, law in laws.items()}, own)


def log_masses(question: Problem, bundle: Bundle, beta: Tensor) -> Tensor:
    """(M,) log of the mass of the failures of the lane's own rows on each line, from a scan and root finding at every crossing."""
    furthest = float(beta.max()) + BEYOND if len(beta) else 0.0
    ends = beta[bundle.lane] + BEYOND
    cells = ceil(2 * furthest / APART)
    # every line has its own grid, as fine as its lane asks; lanes that ask for less repeat their last point
    wanted = torch.ceil(2 * ends / APART)
    step = torch.minimum(torch.arange(cells + 1, dtype=torch.float64)[None], wanted[:, None]) / wanted[:, None]
    t = -ends[:, None] + 2 * ends[:, None] * step
    every = torch.arange(len(bundle.lane)).repeat_interleave(t.shape[1])
    fresh = torch.ones_like(t, dtype=torch.bool)
    fresh[:, 1:] = t[:, 1:] > t[:, :-1]
    value = torch.zeros_like(t)
    value[fresh] = _height(question, bundle, every[fresh.reshape(-1)], t[fresh])
    stale = (~fresh).nonzero()
    value[stale[:, 0], stale[:, 1]] = value[stale[:, 0], wanted[stale[:, 0]].long()]
    fails = value <= 0
    line, cell = (fails[:, 1:] != fails[:, :-1]).nonzero().unbind(1)
    root = _roots(question, bundle, line, t[line, cell], t[line, cell + 1], value[line, cell], value[line, cell + 1])
    return _mass(fails, line, cell, root)


def _mass(fails: Tensor, line: Tensor, cell: Tensor, root: Tensor) -> Tensor:
    """log of the standard normal mass of the failing intervals of each line; the ends of the scan stand for infinity.

    Crossings come sorted by line and cell, so that each one ends an interval that the one before it on the same line began.
    """
    count, before = len(fails), root.roll(1)
    before[torch.cat([torch.ones(1, dtype=torch.bool), line[1:] != line[:-1]])[: len(line)]] = -inf
    leaves = ~fails[line, cell + 1]
    last = torch.full((count,), -inf, dtype=torch.float64).scatter_reduce(0, line, root, "amax")
    open_ = fails[:, -1]
    owner = torch.cat([line[leaves], open_.nonzero()[:, 0]])
    masses = torch.cat([_log_between(before[leaves], root[leaves]), torch.special.log_ndtr(-last[open_])])
    most = torch.full((count,), -inf, dtype=torch.float64).scatter_reduce(0, owner, masses, "amax")
    base = torch.where(most > -inf, most, 0.0)
    return base + torch.zeros_like(base).index_add(0, owner, (masses - base[owner]).exp()).log()


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """log P(low < g < high), by the side on which nothing cancels."""
    mirrored = low + high < 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    first, second = torch.special.log_ndtr(-low), torch.special.log_ndtr(-high)
    return first + torch.log1p(-(second - first).exp())


def _roots(
    question: Problem,
    bundle: Bundle,
    line: Tensor,
    low: Tensor,
    high: Tensor,
    at_low: Tensor,
    at_high: Tensor,
) -> Tensor:
    """The crossing inside every cell, by the Illinois variant of regula falsi."""
    last = torch.zeros_like(low)
    for _ in range(ROOT if len(line) else 0):
        t = high - at_high * (high - low) / (at_high - at_low)
        t = torch.where(t.isfinite() & (t > low) & (t < high), t, (low + high) / 2)
        value = _height(question, bundle, line, t)
        left = (value <= 0) == (at_low <= 0)  # the crossing lies right of t
        at_high = torch.where(left, torch.where(last > 0, at_high / 2, at_high), value)
        at_low = torch.where(left, value, torch.where(last < 0, at_low / 2, at_low))
        low, high = torch.where(left, t, low), torch.where(left, high, t)
        last = torch.where(left, 1.0, -1.0)
    return high - at_high * (high - low) / torch.where(at_high == at_low, 1.0, at_high - at_low)


def _height(question: Problem, bundle: Bundle, line: Tensor, t: Tensor) -> Tensor:
    """<= 0 exactly where the property fails and one of the lane's own rows is the lowest; continuous in t. -1 for logits not finite."""
    at_once = max(1, NUMBERS // max(1, sum(v.shape[1] for v in bundle.start.values())))
    pieces = [_heights(question, bundle, *part) for part in zip(line.split(at_once), t.split(at_once), strict=True)]
    return torch.cat(pieces)


def _heights(question: Problem, bundle: Bundle, line: Tensor, t: Tensor) -> Tensor:
    lane, example, point = bundle.lane[line], bundle.example[line], {}
    for k, start in bundle.start.items():
        moved = torch.addcmul(start[line], t[:, None], bundle.direction[k][lane])
        point[k] = settled(question, k, moved.to(question.device), question.centre[k][:1])
    with torch.no_grad():
        rows = rows_at(question, example, point)[1].cpu().double()
    if question.spec.rank > 1:
        height = margin(rows, question.spec.rank)
    else:
        own = bundle.rows[lane]
        mine, others = rows.masked_fill(~own, inf).amin(1), rows.masked_fill(own, inf).amin(1)
        height = mine - others.clamp_max(0)
    return height.nan_to_num(nan=-1.0, posinf=1e300, neginf=-1e300)


def _normal(law: Law) -> Gaussian:
    assert isinstance(law, Gaussian)
    return law
