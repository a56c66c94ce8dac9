"""S18: do two radii of different classes fit into the distance between their examples?"""

from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import distances, failed, few, passed
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.spec import Threshold, TopK, Untargeted

ABOUT = About(
    promise="S18: the radii of two examples of different labels, both classified correctly, sum to at most their distance",
    reference="the boundary crosses the segment between them: r(x) + r(x') <= |x - x'|_p; derived in bt.optimum",
    answers="after",
    cost="no passes; distances of at most 256 examples",
)
TITLE = "pair sums of radii (S18)"
SLACK = 0.005  # attacks stop within 0.001 beyond the boundary, so a tight pair may exceed its distance by that much
CERTIFIED = 1e-6


def pair_sums(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Every pair of differently labelled, correctly classified examples: sums of witnessed and of certified radii over distances.

    On the segment between two such examples the answer changes, and it has left both classes' own balls no more room than the
    segment: in any norm, in a convex valid range, for every classifier. A witnessed sum above the distance is therefore an
    attack that failed on at least one of the two; a certified one is a bug of a bound.
    """
    if not _applies(problem, bracket):
        return passed(
            "pair_sums",
            TITLE,
            "Only radii of a single input in l1, l2 or l-inf, of labels that exclude each other, have pair sums.",
        )
    part = few(problem, 256)
    upper, lower = bracket.upper[: len(part)], bracket.lower[: len(part)]
    right = (upper > 0) & upper.isfinite()
    labels = part.labels.cpu()
    pairs = (labels[:, None] != labels) & right[:, None] & right
    distance = torch.where(pairs, distances(part).cpu(), inf)
    broken, ratio = _broken(upper, distance, SLACK)
    refuted, _ = _broken(lower, distance, CERTIFIED)
    value = f"largest sum {ratio:.3g} of the distance, {len(broken)} of {int(pairs.sum()) // 2} pairs above"
    if len(refuted):
        return failed(
            "pair_sums",
            TITLE,
            "stop",
            f"The certified radii of {len(refuted)} pairs of differently labelled examples sum to more than their distance.",
            f"No classifier has such radii, see examples {refuted[0].tolist()}, so a bound has a bug; report it together with the model.",
            value=value,
            threshold="1",
        )
    if len(broken):
        return failed(
            "pair_sums",
            TITLE,
            "warn",
            f"The attacked radii of {len(broken)} pairs of differently labelled examples sum to more than their distance.",
            f"No classifier has such radii, so the attack failed on one of each pair, see examples {broken[0].tolist()}; attack with "
            'effort="thorough" and look at the gradient checks.',
            value=value,
            threshold=f"{1 + SLACK:g}",
        )
    return passed(
        "pair_sums",
        TITLE,
        "No two radii exceed the distance of their examples.",
        value=value,
        threshold=f"{1 + SLACK:g}",
    )


def _applies(problem: Problem, bracket: Bracket) -> bool:
    """One input moves, its ball is a norm ball, and no output has the property of two labels at once."""
    leaves, spec = problem.leaves, problem.spec
    if bracket.quantity != "radius" or len(leaves) != 1 or len(problem.inputs) != 1 or leaves[0] not in problem.inputs:
        return False
    exclusive = isinstance(spec, (Untargeted, Threshold, TopK)) and spec.rank == 1
    return exclusive and problem.region[leaves[0]].p in (1, 2, inf)


def _broken(radius: Tensor, distance: Tensor, slack: float) -> tuple[Tensor, float]:
    """The pairs (K, 2), the worst first, whose sum exceeds the distance (N, N) by more than ``slack``, and the largest ratio."""
    ratio = ((radius[:, None] + radius) / distance).triu(1)
    pairs = (ratio > 1 + slack).nonzero()
    worst = ratio[pairs[:, 0], pairs[:, 1]].argsort(descending=True)
    return pairs[worst], float(ratio.nan_to_num(posinf=0.0).max()) if len(ratio) else 0.0
