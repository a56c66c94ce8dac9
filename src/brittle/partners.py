"""Where a walk to another class ends: for every example the nearest correctly classified example of each competing class."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import Targeted, Threshold, Untargeted, matrix
from brittle.validation import as_labels, check_inputs

Examples = tuple[Tensor | Mapping[str, Tensor], Tensor]
DISTANCES = 2**24  # entries of a distance matrix held at once: 64 MB
EXACT = 2**30  # subtractions up to which l2 distances are taken from differences: a second; beyond, from inner products


@dataclass(frozen=True, eq=False)
class Partners:
    """Of every example the nearest correctly classified example of each competing class, and the nearest of any other class.

    values    (M, ...) of the moving leaf; labels (M,)
    index     (N, R): the partner for each row of the specification; -1 where the class has no correctly classified example
    distance  (N, R) float64: to it, in the norm of the ball, to rounding in the input's own dtype; inf where there is none
    fall      (N, R) float64: that row of the specification at the partner: below 0
    other     (N,) float64: distance to the nearest example of another class, whatever the network says of it; neighbour (N,)
    outputs   logits of the network
    """

    values: Tensor
    labels: Tensor
    index: Tensor
    distance: Tensor
    fall: Tensor
    other: Tensor
    neighbour: Tensor
    outputs: int


def moving_input(problem: Problem) -> tuple[str, Ball]:
    """The one input whose distance is meant, and its ball; without a moving input the only one there is, in l2.

    Errors: InputError for several moving inputs, for p = 0 (a count has no gradient), and for a specification of higher rank.
    """
    moving = {leaf: ball for leaf, ball in problem.region.items() if leaf in problem.inputs}
    if not moving:
        moving = {k: Ball(p=2, radius=1.0) for k, v in problem.inputs.items() if v.is_floating_point()}
    if len(moving) != 1:
        raise InputError("path to another class", "one moving input", ", ".join(moving) or "none", "let one input move")
    ((leaf, ball),) = moving.items()
    if ball.p == 0:
        raise InputError("path to another class", "a ball with p = 1, 2 or inf", "p = 0", "ask in another norm")
    if problem.spec.rank != 1:
        raise InputError(
            "path to another class",
            "one competing class at a time",
            "a top-k property",
            "leave spec= out, or use bt.Targeted",
        )
    return leaf, ball


def rivals(problem: Problem, outputs: int) -> Tensor:
    """(N, R): the class that wins where a row of the specification falls below 0."""
    if outputs == 1:
        return 1 - problem.labels[:, None]
    if isinstance(
        problem.spec, (Untargeted, Targeted)
    ):  # their rows are f_label - f_rival: read off logits that are class numbers
        numbers = torch.arange(outputs, dtype=torch.float64, device=problem.device).expand(len(problem), outputs)
        return problem.labels[:, None] - problem.spec.rows(numbers, problem.labels).long()
    return matrix(problem.spec, problem.labels, outputs)[0].argmin(-1).T


def find_partners(problem: Problem, given: Examples | None = None) -> Partners:
    """Partners among ``given`` examples and labels, by default among the problem's own.

    Cost: one forward pass for every candidate (none twice), and their distances. Errors: InputError where all candidates are of one class.
    """
    leaf, ball = moving_input(problem)
    pool = problem if given is None else _pool(problem, given)
    if len(pool.labels.unique()) < 2:
        raise InputError(
            "partners",
            "examples of at least two classes",
            f"class {int(pool.labels[0])} alone",
            "give examples of another class",
        )
    logits = pool.clean_logits()
    cut = pool.spec.threshold if isinstance(pool.spec, Threshold) else 0.0
    said = (logits[:, 0] > cut).long() if logits.shape[1] == 1 else logits.argmax(1)
    values = pool.inputs[leaf].to(problem.inputs[leaf].dtype)
    classes = rivals(problem, logits.shape[1])
    right = (said == pool.labels).nonzero()[:, 0]
    index, distance, neighbour = _nearest(problem, problem.inputs[leaf], values, pool.labels, right, classes, ball.p)
    fall = torch.zeros_like(distance)
    for r in (index >= 0).any(0).nonzero()[:, 0].tolist():
        fall[:, r] = problem.spec.rows(logits[index[:, r].clamp_min(0)], problem.labels)[:, r].double()
    other = norms.norm(problem.inputs[leaf].double() - values[neighbour].double(), ball.p)
    return Partners(values, pool.labels, index, distance, fall, other, neighbour, logits.shape[1])


def _pool(problem: Problem, given: Examples) -> Problem:
    """The candidates as a problem of the same network, checked."""
    try:
        x, labels = given
    except (TypeError, ValueError):
        raise InputError("partners", "a pair (x, labels)", type(given).__name__, "pass partners=(x, labels)") from None
    labels = as_labels(labels).to(problem.device)
    inputs = {f"x.{name}": v for name, v in x.items()} if isinstance(x, Mapping) else {"x": x}
    check_inputs(inputs, labels)
    mine = {name: tuple(v.shape[1:]) for name, v in problem.inputs.items()}
    theirs = {name: tuple(v.shape[1:]) for name, v in inputs.items()}
    if mine != theirs:
        raise InputError("partners", f"inputs of shape {mine}", theirs, "give examples of the same kind")
    spec = problem.spec if isinstance(problem.spec, Threshold) else None
    return replace(
        problem,
        x=x,
        labels=labels,
        spec=spec,
        index=torch.arange(len(labels)),
        scale=torch.ones(len(labels)),
        checked=True,
    )


def _nearest(
    problem: Problem, x: Tensor, pool: Tensor, labels: Tensor, right: Tensor, classes: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, R) the nearest of the ``right`` candidates of each class, -1 for none, and its distance; (N,) the nearest of another label."""
    short = torch.promote_types(x.dtype, torch.float32)
    shift = pool.to(short).mean(0)  # distances stay, fewer digits are lost
    candidates = norms.flat(pool.to(short) - shift)
    small = len(x) * candidates.numel() <= EXACT
    mode = "donot_use_mm_for_euclid_dist" if small else "use_mm_for_euclid_dist"
    found = []
    for at in torch.arange(len(x), device=x.device).split(max(1, DISTANCES // len(pool))):
        away = torch.cdist(norms.flat(x[at].to(short) - shift), candidates, p=float(p), compute_mode=mode)
        neighbour = torch.where(labels[None, :] == problem.labels[at, None], inf, away).argmin(1)
        best = torch.full((len(at), int(classes.max()) + 1), -1, device=x.device)
        for kind in labels[right].unique().tolist():
            of = right[labels[right] == kind]
            if kind < best.shape[1]:
                best[:, kind] = of[away[:, of].argmin(1)]
        index = best.gather(1, classes[at])
        distance = torch.where(index >= 0, away.gather(1, index.clamp_min(0)).double(), inf)
        found.append((index, distance, neighbour))
    index, distance, neighbour = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, distance, neighbour
