"""Averages of weighted draws in log space, their intervals, and how far they are to be believed."""

from dataclasses import dataclass
from math import inf, log, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

FLOOR = log(1e-300)  # smaller probabilities are said to be below it
SHARE = 0.25  # an estimate that owes more than this to one draw is refused (folklore)
TAIL = 0.7  # Vehtari, Simpson, Gelman, Yao, Gabry (JMLR 2024): beyond it the error of an average of weights is not to be trusted
FEWEST = 20  # failures seen at least (folklore): with fewer the standard error is itself a guess


@dataclass(frozen=True, eq=False)
class Average:
    """``log_mean`` of (N, M) non-negative scores given by logarithms, and what is known about it; all (N,) float64.

    relative  standard error over mean, widened by the largest share: one more draw like the heaviest is always possible
    size      effective sample size among the scores that are not zero
    share     of the heaviest score in the sum
    tail      Pareto index of the scores: moments above 1 / tail do not exist
    hits      how many scores are not zero
    """

    log_mean: Tensor
    relative: Tensor
    size: Tensor
    share: Tensor
    tail: Tensor
    hits: Tensor

    @staticmethod
    def of(scores: Tensor) -> "Average":
        count = scores.shape[1]
        total = scores.logsumexp(1)
        known = total > -inf
        parts = torch.where(known[:, None], (scores - total[:, None]).exp(), 0.0)  # shares of the sum
        squares = parts.square().sum(1)
        variance = (squares - 1 / count).clamp_min(0) * count / max(1, count - 1)
        share = parts.amax(1)
        return Average(
            total - log(count),
            torch.where(known, (variance + share.square()).sqrt(), inf),
            torch.where(known, 1 / squares.clamp_min(1e-300), 0.0),
            share,
            pareto_tail(parts),
            (scores > -inf).sum(1).double(),
        )

    def interval(self, level: float) -> Tensor:
        """(N, 2): log-normal, ``mean exp(+- z relative)``; skewed to the side on which averages of weights err."""
        reach = NormalDist().inv_cdf(0.5 + level / 2) * self.relative
        known = self.log_mean > -inf
        low = torch.where(known, (self.log_mean - reach).exp(), 0.0)
        return torch.stack([low, torch.where(known, (self.log_mean + reach).exp().clamp_max(1), 1.0)], 1)

    def objection(self) -> list[str]:
        """Why each average is not to be believed, or ""."""
        words = []
        for hits, tail, share in zip(self.hits.tolist(), self.tail.tolist(), self.share.tolist(), strict=True):
            if hits < FEWEST:
                words.append(f"only {int(hits)} of the weighted draws failed")
            elif tail > TAIL:
                words.append(f"the weights have a heavy tail (Pareto index {tail:.2f} > {TAIL})")
            else:
                words.append(f"one draw makes {100 * share:.0f} % of the estimate" if share > SHARE else "")
        return words


def pareto_tail(scores: Tensor) -> Tensor:
    """(N,) the index k of a generalised Pareto law fitted to the largest of (N, M) scores >= 0; negative: bounded.

    The tail is the 1.5 sqrt(m) largest of the m scores that are not zero, at most a fifth. That is half as long as Vehtari et al. advise:
    weights exp(-beta t) are bounded, but further in they look heavy once beta exceeds 20 (measured). The fit is the approximate posterior mean
    of Zhang and Stephens (Technometrics 2009), with the weak prior around 0.5 of Vehtari et al. -inf where fewer than five are in the tail.

    >>> import torch
    >>> uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)[None]
    >>> [round(float(pareto_tail(u)), 1) for u in (uniform, uniform ** -1.0)]  # the law of 1 / u has index 1
    [-0.7, 0.9]
    """
    result = torch.full((scores.shape[0],), -inf, dtype=torch.float64)
    for i, row in enumerate(scores):
        ordered = row[row > 0].sort().values
        length = min(len(ordered) // 5, int(1.5 * sqrt(len(ordered))))
        if length >= 5:
            result[i] = _fitted(ordered[-length:] - ordered[-length - 1])
    return result


def _fitted(excess: Tensor) -> float:
    """Zhang and Stephens' estimate for sorted excesses over a threshold."""
    n, largest, quartile = len(excess), excess[-1], excess[int(len(excess) / 4 + 0.5) - 1]
    if not (quartile > 0 and largest > 0):
        return -inf  # equal scores: no tail at all
    grid = 30 + int(sqrt(n))
    at = torch.arange(1, grid + 1, dtype=torch.float64) - 0.5
    theta = 1 / largest + (1 - (grid / at).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta[:, None] * excess).mean(1)
    likelihood = n * ((-theta / k).log() - k - 1)
    weight = torch.softmax(likelihood.nan_to_num(nan=-inf), 0)
    best = torch.log1p(-(weight * theta).sum() * excess).mean()
    return float((n * best + 10 * 0.5) / (n + 10))
