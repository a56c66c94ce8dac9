"""Averages of weighted draws in log space, their intervals, and how far they are to be believed."""

from dataclasses import dataclass
from math import inf, log
from statistics import NormalDist

import torch
from torch import Tensor

FLOOR = log(1e-300)  # smaller probabilities are said to be below it
SHARE = 0.25  # an estimate that owes more than this to one draw is refused (folklore)
TAIL = 0.7  # Vehtari, Simpson, Gelman, Yao, Gabry (JMLR 2024): beyond it the error of an average of weights is not to be trusted
WILD = 0.5  # beyond this index the scores have no variance, and their mean errs like a stable law
FEWEST = 20  # failures seen at least (folklore): with fewer the standard error is itself a guess


@dataclass(frozen=True, eq=False)
class Average:
    """``log_mean`` of (N, M) non-negative scores given by logarithms, and what is known about it; all (N,) float64.

    relative  standard error over mean, widened by the largest share, since one more draw like the heaviest is always possible, and for a tail
              index k > 1/2 by hits^(k - 1/2): averages of n scores without a variance err like n^(k - 1), not like n^(-1/2)
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
        share, tail, hits = parts.amax(1), pareto_tail(parts), (scores > -inf).sum(1).double()
        wider = hits.clamp_min(1) ** (tail.clamp(WILD, 1.0) - WILD)
        return Average(
            total - log(count),
            torch.where(known, wider * (variance + share.square()).sqrt(), inf),
            torch.where(known, 1 / squares.clamp_min(1e-300), 0.0),
            share,
            tail,
            hits,
        )

    @property
    def heavy(self) -> Tensor:
        """(N,) bool: the weights, and not a lack of failures, speak against the average."""
        return (self.tail > TAIL) | (self.share > SHARE)

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
    count = (scores > 0).sum(1)
    length = torch.minimum(count // 5, (1.5 * count.double().sqrt()).long())
    result = torch.full((len(scores),), -inf, dtype=torch.float64)
    at = (length >= 5).nonzero()[:, 0]
    if len(at):
        longest = int(length.max())
        largest = scores[at].topk(longest + 1, 1).values
        threshold = largest.gather(1, length[at][:, None])
        result[at] = _fitted(largest[:, :longest] - threshold, length[at])
    return result


def _fitted(excess: Tensor, length: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for excesses (N, L) over a threshold, the largest first; ``length`` (N,) of them count."""
    n, rank = length.double(), torch.arange(excess.shape[1])
    counts = rank < length[:, None]
    largest = excess[:, 0]
    quartile = excess.gather(1, (length - (n / 4 + 0.5).long())[:, None])[:, 0]
    grid = 30 + n.sqrt().floor()
    at = torch.arange(1, int(grid.max()) + 1, dtype=torch.float64)
    theta = 1 / largest[:, None] + (1 - (grid[:, None] / (at - 0.5)).sqrt()) / (3 * quartile[:, None])
    mean = lambda values: values.masked_fill(~counts, 0.0).sum(1) / n
    logs = torch.log1p(-theta[:, :, None] * excess[:, None]).masked_fill(~counts[:, None], 0.0)
    k = logs.sum(2) / n[:, None]
    likelihood = (n[:, None] * ((-theta / k).log() - k - 1)).nan_to_num(nan=-inf)
    weight = likelihood.masked_fill(at > grid[:, None], -inf).softmax(1)
    best = (weight * theta.nan_to_num()).sum(1)
    index = (n * mean(torch.log1p(-best[:, None] * excess)) + 10 * 0.5) / (n + 10)
    return torch.where((quartile > 0) & (largest > 0), index, -inf)  # equal scores: no tail at all
