"""Which leaf is to blame? The drop of the margin to first order, split into input and layers."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite

import torch
from torch import Tensor

from brittle.about import About
from brittle.diagnostics._relative import parameter_leaves, relative_balls, size_in_words
from brittle.diagnostics._slopes import first_order
from brittle.diagnostics._tangent import tangent
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="per example and moving leaf: the largest drop of the margin to first order, its share, and the margin predicted after all of them",
    reference="first-order support of the joint ball, our derivation; the question is that of Tsai, Hsu, Yu and Chen, arXiv 2102.11935",
    norms=(0, 1, 2, inf),
    cost="2 forward and 2 backward for the batch with linear layers; 1 more of each per example with its own weights for other parameters",
    effort="standard",
)
TITLE = "Sources of vulnerability"


def sources(
    problem: Problem, *, seed: int = 0, relative: float = 0.01, rivals: int = 2, linearisations: int = 1
) -> Finding:
    """How much of its margin an example can lose through each moving leaf, to first order: no bound, but within ten percent of attacks at useful radii.

    With g the gradient of the margin m (a row of the specification) by leaf k, ``drop_k = max <-g_k, v>`` over the ball *and* the valid range of that leaf: ``radius_k |g_k|_q``
    where no range binds, q the dual norm; a coordinate that its range blocks adds nothing. Leaves move at once, so drops add up:
    ``predicted = m - sum_k drop_k``. For a ball relative to every entry, ``drop_k = radius sum |g_ab| |W_ab|``. Of the ``rivals`` smallest rows the one
    that is predicted to end lowest is told, where the example is classified correctly: the nearest class need not be the one that wins in the end.

    Columns, one row per example: ``example``, ``margin``, ``predicted``; for every leaf ``drop LEAF``, ``share LEAF`` (of the sum of the drops)
    and ``size LEAF``: the radius at which this leaf alone is predicted to break the example (0: wrong already; inf: it cannot), where no range binds.
    ``value`` is the predicted accuracy under all leaves at once, with the clean one beside it.

    rivals    smallest rows looked at, each one backward pass for the whole batch. One is the cheapest; two are closer to attacks at large radii
    relative  Without a parameter in the region every tensor of two or more axes is asked about as if each of its entries moved by ``relative`` of itself, the input
    being held (biases and normalisation stay): shares are then among the layers, and do not depend on ``relative``. That radius is unchanged by
    rescaling one layer against the next. A shared change can do no more than what is predicted here for a change of each example's own.
    linearisations  2 linearises each rival again at the point where the first one is worst, and predicts from there (no p = 0); drops, shares and sizes stay
    those of the clean point. On digits (five networks, l-inf) the predicted accuracy was off by at most 3 and 12 points at input .02, weights .005 and .05, .01
    with one, by 1 and 2 with two. Costs two forward and two backward passes more per rival, with weights of each example's own.

    Errors: InputError where nothing can move (a callable without parameters, and no region), and for options out of range.

    >>> from brittle import Ball, diagnose
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> region = {"x": Ball(p=inf, radius=0.1), "weight": Ball(p=inf, radius=0.05)}
    >>> found = diagnose(Problem(linear, torch.tensor([[2.0, 1.0]]), torch.tensor([0]), region), "sources")
    >>> [round(float(found.columns[name][0]), 6) for name in ("margin", "drop x", "drop weight", "predicted")]  # .1 (3 + 4), .05 x 2 (2 + 1)
    [2.0, 0.7, 0.3, 1.0]
    """
    if not 0 < relative < inf or rivals < 1 or linearisations not in (1, 2):
        expected = "relative > 0, rivals >= 1, linearisations of 1 or 2"
        raise InputError("sources", expected, (relative, rivals, linearisations), "use 0.01, 2 and 1")
    asked = problem if parameter_leaves(problem) else _assumed(problem, relative)
    margins, drops = _worst(asked, rivals)
    whole = torch.stack(list(drops.values())).sum(0)
    predicted = margins - whole if linearisations == 1 else _from_tangents(asked, margins, rivals)
    columns: dict[str, Tensor | list] = {"example": problem.index, "margin": margins, "predicted": predicted}
    for leaf, drop in drops.items():
        columns[f"drop {leaf}"] = drop
        columns[f"share {leaf}"] = torch.where(whole.isfinite() & (whole > 0), drop / whole, torch.nan)
        alone = asked.region[leaf].radius * margins / drop
        columns[f"size {leaf}"] = torch.where(margins > 0, torch.where(drop > 0, alone, inf), 0.0)
    return Finding(
        "sources",
        TITLE,
        columns,
        unit="share of the predicted drop",
        note=_sentence(asked, columns, asked is problem),
        value=_accuracies(margins, predicted),
        threshold=_told(asked)
        if asked is problem
        else f"assumed: every weight by {relative:.3g} of itself, the input held",
    )


def _worst(problem: Problem, rivals: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Margins and drops of the row that is predicted to end lowest; of the smallest row where that is wrong already."""
    first, *others = _ranks(problem, rivals)
    margins, drops = first_order(problem, first)
    wrong = margins <= 0
    for rank in others:
        other, more = first_order(problem, rank)
        lower = ~wrong & (other - sum(more.values()) < margins - sum(drops.values()))
        margins = torch.where(lower, other, margins)
        drops = {leaf: torch.where(lower, more[leaf], drop) for leaf, drop in drops.items()}
    return margins, drops


def _from_tangents(problem: Problem, margins: Tensor, rivals: int) -> Tensor:
    """The least prediction of the rivals' tangents; of the smallest row where that is wrong already."""
    first, *others = [tangent(problem, rank) for rank in _ranks(problem, rivals)]
    return torch.where(margins <= 0, first, torch.stack([first, *others]).amin(0))


def _ranks(problem: Problem, rivals: int) -> range:
    """The smallest rows that are looked at, by rank."""
    first = problem.spec.rank
    with torch.no_grad():
        rows = problem.take(torch.tensor([0])).rows().shape[1]
    return range(first, min(first + rivals - 1, rows) + 1)


def _assumed(problem: Problem, relative: float) -> Problem:
    """The same examples where every weight moves by a part of itself, the input held."""
    balls = relative_balls(problem, relative)
    if not balls and not problem.region:
        raise InputError("sources", "a region, or a module with weights", "neither", "give the leaves that move a ball")
    return problem.within(balls) if balls else problem


def _accuracies(clean: Tensor, predicted: Tensor) -> str:
    share = lambda values: f"{float((values > 0).double().mean()):.1%}"
    return f"predicted accuracy {share(predicted)} (clean {share(clean)})"


def _told(problem: Problem) -> str:
    """What moves and how far, in a few words; leaves with the same ball share them."""
    groups: dict[tuple, list[str]] = {}
    for leaf, ball in problem.region.items():
        groups.setdefault((ball.p, ball.radius, ball.relative), []).append(leaf)
    said = []
    for (p, radius, relative), names in groups.items():
        who = names[0] if len(names) == 1 else f"{len(names)} parameters"
        said.append(f"{who} by {radius:.3g} {size_in_words(p, relative)}")
    return ", ".join(said)


def _sentence(asked: Problem, columns: Mapping[str, Tensor | list], declared: bool) -> str:
    """The weakest source: by its share where the user said how far leaves move, else by how little of itself suffices."""
    right = torch.as_tensor(columns["margin"]) > 0
    if not bool(right.any()):
        return "No example is classified correctly: there is no margin to lose."
    middle = lambda word, leaf: _middle(torch.as_tensor(columns[f"{word} {leaf}"])[right].tolist())
    if declared:
        shares = {leaf: middle("share", leaf) for leaf in asked.leaves}
        worst = max(shares, key=lambda leaf: shares[leaf])
        rest = ", ".join(f"{leaf} {share:.0%}" for leaf, share in list(shares.items())[:8])
        return (
            f"Of what the margin can lose to first order, {worst} accounts for {shares[worst]:.0%} (medians: {rest})."
        )
    enough = {leaf: middle("size", leaf) for leaf in asked.leaves}
    worst = min(enough, key=lambda leaf: enough[leaf])
    if not isfinite(enough[worst]):
        return "To first order no layer's weights can break the median example."
    return (
        f"Weakest layer: {worst}. To first order a change of each of its weights by {enough[worst]:.1%} of itself breaks the median example; "
        "the region names no parameters, so this assumes changes relative to every weight, with the input held."
    )


def _middle(values: Sequence[float]) -> float:
    known = sorted(v for v in values if v == v)
    return known[(len(known) - 1) // 2] if known else 0.0
