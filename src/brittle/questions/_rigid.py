"""Examples that a subspace together with a valid range holds fast: an attack that finds nothing there has not failed, there is nothing to find."""

from dataclasses import replace

import torch
from torch import Tensor

from brittle.problem import Problem
from brittle.results import Bracket
from brittle.section import Section

RIGID = "nothing can move"
NOTE = f"{RIGID}: the valid range and the subspace leave only the input itself"


def noted(found: Bracket, problem: Problem, unbroken: Tensor) -> Bracket:
    """The answer with that said, in the status and as a doubt, of every ``unbroken`` (N,) example that is held fast."""
    still = rigid(problem, unbroken)
    if not bool(still.any()):
        return found
    status = tuple(NOTE if fast else old for fast, old in zip(still.tolist(), found.status, strict=True))
    doubt = f"{NOTE} for {int(still.sum())} of {len(still)} examples: no attack can find anything; leave out low and high, or ask of another subspace"
    return replace(found, status=status, doubts=(*found.doubts, doubt))


def rigid(problem: Problem, asked: Tensor) -> Tensor:
    """(N,) whether an ``asked`` example has no feasible point but its own, at any radius."""
    still = asked.clone()
    for ball in problem.region.values():
        if ball.section is None or (ball.section.low is None and ball.section.high is None):
            return torch.zeros_like(asked)
        base = problem.inputs[ball.section.base]
        for i in still.nonzero()[:, 0].tolist():
            still[i] = _held(ball.section, base[i : i + 1])
    return still if problem.region else torch.zeros_like(asked)


def _held(section: Section, base: Tensor) -> bool:
    """Whether ``{c: low <= base + c B <= high}`` is {0}: whether the cone ``{c: A c >= 0}`` is, A the rows of B^T at the ends of the range, signed
    inwards. With ``0 <= A c <= 1`` the largest sum of A c is 0 or, the cone being scaled freely, at least 1; where it is 0, c is 0 if A has full rank.

    Rows have length 1: a feature that the basis moves by rounding alone holds as fast as any other.
    """
    from scipy.optimize import linprog

    rooms = section.rooms(base)
    assert rooms is not None  # asked with a range
    basis = section.basis.double().T.cpu()  # (d, r)
    a = torch.cat([basis[rooms[0][0].cpu() == 0], -basis[rooms[1][0].cpu() == 0]])
    length = a.norm(dim=1)
    a = a[length > 0] / length[length > 0, None]
    r = a.shape[1]
    if len(a) < r or int(torch.linalg.matrix_rank(a)) < r:
        return False
    rows = a.numpy()
    both = torch.cat([a, -a]).numpy()
    above = [1.0] * len(rows) + [0.0] * len(rows)
    best = linprog(-rows.sum(0), both, above, bounds=(None, None), method="highs")
    return bool(best.status == 0 and -best.fun < 0.5)
