"""Random windows of the change set to the extremes of the region, kept where the margin falls: an attack without gradients."""

from collections.abc import Sequence
from math import inf, sqrt

import torch
from torch import Tensor

from brittle import norms, randomness
from brittle.about import EVERY_NORM, About
from brittle.attacks._search import Tracker, margin_witness, searchable
from brittle.boundary import Room, best_change, rooms
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a feasible point with a small margin, also where gradients vanish; the smallest margin of the region may be smaller",
    reference="after Andriushchenko, Croce, Flammarion, Hein, Square attack, ECCV 2020; step size by Rechenberg's one-fifth rule",
    norms=EVERY_NORM,
    answers="margin",
    cost="steps forward, 3 to 5 forward at the end, no backward",
    effort="standard",
)

SHARE = 0.5, 0.003  # of the coordinates redrawn in a step, first and last, geometric between; folklore
TILES = 5  # blocks per side of the first change of an image for p < inf; of the reference
GROW, SHRINK = (
    1.5,
    1.5**-0.25,
)  # of the step on success and failure: it stands still where one query in five succeeds (Rechenberg 1973)
FAR = 10.0  # reach of a changed feature (p = 0): beyond most ranges, so that it ends at one


def square(problem: Problem, *, seed: int = 0, start: Point | None = None, steps: int = 100) -> Witness:
    """Minimise the margin inside the region at ``problem.scale`` by queries alone.

    What is searched is a direction of each leaf; the point queried is the one of the ball, cut by its range, that goes furthest that way:
    for p = inf a corner, for p = 2 a point of the sphere, for p = 1 a vertex, for p = 0 the largest features at their range. A step redraws a
    falling share of one leaf's direction and keeps it unless the margin rose (ties are kept, so that plateaus are crossed). Images
    change in square windows, all of a channel's window alike for p = inf, with the weight of a second window moved there for p = 2;
    vectors and parameters change in scattered coordinates. Networks whose gradients are zero or shattered are seen as they are.

    Guarantee: the witness is feasible to the last bit, its margin is re-measured, and it is never above the clean margin.

    start  a point by leaf that is queried first, and whose direction the search begins with (default: stripes, tiles or random numbers)
    steps  queries

    >>> from brittle import Ball, Problem
    >>> rounded = lambda x: torch.stack([x[:, 0].round(), 0.5 + 0 * x[:, 0]], 1)  # its gradient is zero
    >>> problem = Problem(rounded, torch.tensor([[0.8]]), torch.tensor([0]), Ball(p=torch.inf, radius=0.4))
    >>> float(square(problem).margin)
    -0.5
    """
    if steps < 1:
        raise InputError("square.steps", "at least 1", steps, "raise it")
    search = searchable(problem)
    tracker = Tracker.of(search, "margin")
    draws = [randomness.generator(seed, "square", int(i)) for i in search.index.tolist()]
    room, leaves = rooms(search), search.leaves
    with torch.no_grad():
        tracker.see(search.centre, search.rows())
        best = {leaf: _first(search, leaf, draws) for leaf in leaves}
        if start is not None:
            begin = {k: v.to(search.centre[k].dtype) for k, v in search.project(start).items()}
            tracker.see(begin, search.rows(begin))
            best = {k: _directed(begin[k] - search.centre[k], best[k]) for k in leaves}
        point = {leaf: _extreme(search, leaf, best[leaf], room[leaf]) for leaf in leaves}
        least = tracker.see(point, search.rows(point))
        size = torch.ones(len(search), device=search.device)
        for k in range(1, steps):
            leaf = leaves[k % len(leaves)]
            tried = _redrawn(search, leaf, best[leaf], SHARE[0] * (SHARE[1] / SHARE[0]) ** (k / steps), size, draws)
            moved = {**point, leaf: _extreme(search, leaf, tried, room[leaf])}
            margins = tracker.see(moved, search.rows(moved))
            kept = (margins <= least) | (least.isnan() & margins.isfinite())
            size = (size * torch.where(kept & (margins < least), GROW, SHRINK)).clamp(1e-3, 2.0)
            least = torch.where(kept, margins, least)
            best[leaf] = torch.where(norms.spread(kept, tried), tried, best[leaf])
            point[leaf] = torch.where(norms.spread(kept, point[leaf]), moved[leaf], point[leaf])
    return margin_witness(problem, tracker, "square")


def _extreme(problem: Problem, leaf: str, direction: Tensor, room: Room) -> Tensor:
    """The point of the leaf's ball and range that goes furthest in a direction (N, ...)."""
    ball, centre = problem.region[leaf], problem.centre[leaf]
    radius = problem.radius(leaf).to(centre)
    if ball.section is not None:
        return problem.project_leaf(leaf, centre + norms.spread(radius, centre) * ball.section.along(direction))
    if ball.p == 0:
        return problem.project_leaf(leaf, centre + FAR * direction)
    a = norms.flat(direction)
    change = best_change(a, ball.p, radius, room.towards(a))[0].reshape(centre.shape)
    return problem.project_leaf(leaf, centre + ball.stretched(change))


def _directed(change: Tensor, drawn: Tensor) -> Tensor:
    """The direction of a change (N, ...) scaled to entries about 1; where nothing changed, what was drawn."""
    scale = norms.flat(change).square().mean(1).sqrt()
    told = change / norms.spread(scale.clamp_min(torch.finfo(change.dtype).tiny), change)
    return torch.where(norms.spread(scale > 0, drawn), told, drawn)


def _image(problem: Problem, leaf: str) -> bool:
    value = problem.centre[leaf]
    return leaf in problem.inputs and value.dim() >= 3 and min(value.shape[-2:]) > 1


def _stack(draws: Sequence[torch.Generator], shape: tuple[int, ...], like: Tensor, normal: bool = False) -> Tensor:
    draw = torch.randn if normal else torch.rand
    return torch.stack([draw(shape, generator=g) for g in draws]).to(like)


def _signs(draws: Sequence[torch.Generator], shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.where(_stack(draws, shape, like) < 0.5, -1.0, 1.0).to(like)


def _first(problem: Problem, leaf: str, draws: Sequence[torch.Generator]) -> Tensor:
    """Vertical stripes of random sign (images, p = inf), tiles (images, other p), else random signs or normal numbers."""
    value, p = problem.centre[leaf], problem.region[leaf].p
    shape = tuple(value.shape[1:])
    if not _image(problem, leaf):
        return _signs(draws, shape, value) if p == inf else _stack(draws, shape, value, normal=True)
    *channels, height, width = shape
    if p == inf:
        return _signs(draws, (*channels, 1, width), value).expand(value.shape).clone()
    tiles = _signs(draws, (*channels, TILES, TILES), value)
    rows, columns = (torch.arange(n, device=value.device) * TILES // n for n in (height, width))
    return tiles[..., rows, :][..., columns]


def _redrawn(
    problem: Problem, leaf: str, old: Tensor, share: float, size: Tensor, draws: Sequence[torch.Generator]
) -> Tensor:
    p = problem.region[leaf].p
    if not _image(problem, leaf):
        return _scattered(old, p, share, size, draws)
    *channels, height, width = old.shape[1:]
    side = min(height, width, max(1, round(sqrt(share * height * width))))
    window = _window(old, side, draws)
    fresh = _signs(draws, (*channels, 1, 1), old)
    if p == inf:
        return torch.where(window, fresh, old)
    return _moved_weight(old, window, _window(old, side, draws), fresh, share)


def _scattered(old: Tensor, p: float, share: float, size: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """A random share of the coordinates, at least one: flipped (p = inf), drawn anew (p < 2), or moved by ``size`` (N,) times their rms."""
    shape = tuple(old.shape[1:])
    chance = norms.flat(_stack(draws, shape, old))
    mask = ((chance < share) | (chance == chance.amin(1, keepdim=True))).reshape(old.shape)
    if p == inf:
        return torch.where(mask, -old, old)
    if p < 2:  # only the order of the sizes matters: any place in it, the first one as well
        largest = norms.spread(norms.norm(old, inf).clamp_min(torch.finfo(old.dtype).tiny), old)
        return torch.where(mask, 2.5 * _stack(draws, shape, old) - 1.25, old / largest)
    noise = _stack(draws, shape, old, normal=True)
    rms = norms.flat(old).square().mean(1).sqrt()
    return old + torch.where(mask, norms.spread(size.to(old) * rms, old) * noise, 0.0)


def _window(like: Tensor, side: int, draws: Sequence[torch.Generator]) -> Tensor:
    """(N, 1.., H, W) bool: one random square of every example, all channels alike."""
    height, width = like.shape[-2:]
    corner = _stack(draws, (2,), like)
    bands = []
    for axis, length in enumerate((height, width)):
        first = (corner[:, axis] * (length - side + 1)).floor()[:, None]
        at = torch.arange(length, device=like.device)
        bands.append((at >= first) & (at < first + side))
    mask = bands[0][:, :, None] & bands[1][:, None, :]
    return mask.reshape(len(like), *[1] * (like.dim() - 3), height, width)


def _moved_weight(old: Tensor, window: Tensor, other: Tensor, signs: Tensor, share: float) -> Tensor:
    """The squared length inside two windows goes to the first, half old shape and half a block of one sign per channel; at least the share of a fair part."""
    length = lambda v: norms.spread(norms.norm(v, 2), v)
    tiny = torch.finfo(old.dtype).tiny
    here = torch.where(window, old, 0.0)
    block = torch.where(window, signs.expand(old.shape), 0.0)
    weight = torch.maximum(length(torch.where(window | other, old, 0.0)), sqrt(share) * length(old))
    shape = here / length(here).clamp_min(tiny) + block / length(block).clamp_min(tiny)
    fresh = weight * shape / length(shape).clamp_min(tiny)
    return torch.where(window, fresh, torch.where(other, 0.0, old))
