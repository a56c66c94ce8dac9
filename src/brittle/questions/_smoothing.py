"""How far a change must go before a smoothed model can change its mind: from shares of votes under noise to a scale of the region.

With p = P(vote for the label), q = P(vote for a rival) under noise around v, and a change delta of v:

    Gaussian sigma   Phi^-1(p') >= Phi^-1(p) - |delta|_2 / sigma, q the other way: reach (Phi^-1(p) - Phi^-1(q)) / 2 > |delta|_2 / sigma
                     (Cohen, Rosenfeld and Kolter 2019; half-spaces are extremal)
    Laplace b        densities change by a factor exp(-+|delta|_1 / b): reach max(log(p / q) / 2, -log(1 - p + q)) (Teng, Lee and Yuan 2020)
    cube of side 2a  the cubes overlap but for a share of at most |delta|_1 / 2a: reach p - q > |delta|_1 / a (Lee et al. 2019; Yang et al. 2020)
    k of n replaced  r changed coordinates are all replaced with probability C(n - r, k - r) / C(n, k), and then no change is seen: half the
                     difference of p and q must exceed one minus that (Levine and Feizi 2020, for ablated inputs; the same two lines)

The last three in two lines each; all need nothing of the model. Other norms by the best factor between norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.laws import Gaussian, Laplace, Law, Replace, UniformBall
from brittle.problem import Problem
from brittle.region import Ball

SHORT = 1 - 1e-9  # what evaluating quantiles and logarithms may be off, thousands of times over
NATIVE = {"gaussian": 2.0, "laplace": 1.0, "cube": 1.0, "replace": 0.0}
KNOWN = "Gaussian, Laplace, UniformCube or Replace"


@dataclass(frozen=True)
class Reach:
    """Noise and region brought together: ``scale(p, q)`` is the scale of the region up to which the label keeps its lead.

    kind    "gaussian", "laplace", "cube" or "replace"
    cost    what the region at scale 1 uses up of the reach of the votes; for counted changes that of one change
    p       of the ball; counts are searched, other norms divided
    radius  of the ball, in whose units a count is a scale
    total   features, and of them how many are replaced, and how many of them one counted change holds
    """

    kind: str
    cost: float
    p: float
    radius: float
    total: int
    replaced: int = 0
    each: int = 1

    def scale(self, label: Tensor, rival: Tensor) -> Tensor:
        """(N,) float64 from a lower limit of the label's share and an upper one of every rival's; 0 where the label need not lead."""
        reach = SHORT * votes_reach(self.kind, label, rival)
        if self.kind == "replace":
            count = torch.floor(self._harmless(reach) / self.each)
        elif self.p == 0:  # k changes: at most cost * k^(1 / native norm)
            count = torch.ceil((reach / self.cost) ** NATIVE[self.kind] * SHORT) - 1
        else:
            return torch.where(label > rival, (reach / self.cost).clamp_min(0), 0.0)
        return torch.where(label > rival, (count.clamp_min(0) + 1) / self.radius, 0.0)

    def _harmless(self, reach: Tensor) -> Tensor:
        """The largest number of changed coordinates that are seen with a probability below ``reach``."""
        n, k, seen = self.total, self.replaced, [0.0]
        hidden = 1.0
        for r in range(k):
            hidden *= (k - r) / (n - r)
            seen.append((1 - hidden) * (1 + 1e-9))
            if 1 - hidden > 0.5:
                break
        steps = torch.tensor(seen, dtype=torch.float64)
        return (steps[None, :] < reach[:, None]).sum(1).double() - 1


def votes_reach(kind: str, label: Tensor, rival: Tensor) -> Tensor:
    """The reach of the table above, in units of the noise.

    >>> one = lambda value: torch.tensor([value], dtype=torch.float64)
    >>> votes_reach("gaussian", one(0.8413447460685429), one(0.15865525393145707)).round(decimals=9).tolist()
    [1.0]
    """
    if kind == "gaussian":
        from scipy.special import ndtri

        quantile = lambda value: torch.as_tensor(ndtri(value.numpy()), dtype=torch.float64)
        return (quantile(label) - quantile(rival)) / 2
    if kind == "laplace":
        return torch.maximum((label / rival).log() / 2, -torch.log1p(rival - label))
    return (label - rival) * (1.0 if kind == "cube" else 0.5)


def reach_of(problem: Problem, laws: Mapping[str, Law]) -> Reach:
    """What the region costs under these laws. Errors: InputError for laws and balls without a certificate."""
    unmoved = [leaf for leaf in problem.leaves if leaf not in laws]
    if unmoved:
        raise InputError(
            f"noise on leaf {unmoved[0]!r}", "a law for every leaf that moves", "none", "add one to the laws"
        )
    balls = {leaf: ball for leaf, ball in problem.region.items() if ball.radius > 0}
    kinds = {_kind(leaf, laws[leaf]) for leaf in laws}
    if len(kinds) > 1 or (len(balls) > 1 and ("replace" in kinds or any(b.p == 0 for b in balls.values()))):
        raise InputError(
            "laws", "laws of one kind, counted changes on one leaf alone", sorted(kinds), "smooth one leaf"
        )
    if not balls:
        raise InputError("region", "a ball with a radius > 0", "radius 0", "use radius=1.0: the answer is the distance")
    kind, costs = kinds.pop(), []
    for leaf, ball in balls.items():
        costs.append(_cost(kind, leaf, ball, laws[leaf], problem.centre[leaf][0]))
    leaf, ball = next(iter(balls.items()))
    shape = problem.centre[leaf][0].shape
    total = sum(c**2 for c in costs) ** 0.5 if kind == "gaussian" else sum(costs)
    each = shape[0] if ball.groups == "channels" else 1
    law = laws[leaf]
    return Reach(kind, total, ball.p, ball.radius, shape.numel(), law.k if isinstance(law, Replace) else 0, each)


def _kind(leaf: str, law: Law) -> str:
    if isinstance(law, Gaussian):
        return "gaussian"
    if isinstance(law, Laplace):
        return "laplace"
    if isinstance(law, UniformBall) and law.p == inf:
        return "cube"
    if isinstance(law, Replace):
        return "replace"
    raise InputError(f"law of {leaf!r}", KNOWN, type(law).__name__, "no certificate is known for smoothing by others")


def _cost(kind: str, leaf: str, ball: Ball, law: Law, clean: Tensor) -> float:
    """The reach that the ball of one leaf uses up at scale 1; of one change where changes are counted."""
    if ball.section is not None or ball.unit is not None:
        raise InputError(
            f"ball of {leaf!r}", "one in the units of the leaf, in all directions", ball, "leave these out"
        )
    if kind == "replace":
        if ball.p != 0:
            raise InputError(
                f"ball of {leaf!r}", "p = 0 for replaced coordinates", ball.p, "count changes, or use other noise"
            )
        return 1.0
    native, unit = NATIVE[kind], _unit(law)
    if ball.p == 0:
        if ball.low is None or ball.high is None:
            raise InputError(
                f"ball of {leaf!r}", "low and high: a counted change is else of any size", "none", "give both"
            )
        width = float((torch.as_tensor(ball.high) - torch.as_tensor(ball.low)).double().max())
        held = clean.shape[0] if ball.groups == "channels" else 1
        return width * held ** (1 / native) / unit * (1 + 1e-12)
    features = clean.numel()
    factor = 1.0 if ball.p <= native else features ** (1 / native - (0.0 if ball.p == inf else 1 / ball.p))
    return ball.radius * factor / unit * (1 + 1e-12)


def _unit(law: Law) -> float:
    """The noise's own unit of length: for a Gaussian of any covariance its least standard deviation."""
    if isinstance(law, Laplace):
        return law.scale
    if isinstance(law, UniformBall):
        return law.radius
    assert isinstance(law, Gaussian)
    if law.covariance is not None:
        values = torch.linalg.eigvalsh(law.covariance)
        return float((values[0] - 1e-10 * values[-1]).clamp_min(1e-300)) ** 0.5
    return float(torch.as_tensor(law.sigma).min())
