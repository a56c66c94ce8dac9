"""What a model says under noise, as votes: for the label, for every other class."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brittle.laws import Law
from brittle.noise._design import rows_at
from brittle.noise._plain import points
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.spec import Untargeted, margin
from brittle.stats import binomial_lower, binomial_upper


@dataclass(frozen=True, eq=False)
class Votes:
    """Of ``draws`` so many for the label, and ``others`` (K,) for each rival: the other classes, or "the property fails" as the only one.

    Logits that are not finite vote for nobody.
    """

    label: float
    others: Tensor
    draws: int

    @property
    def rival(self) -> int:
        """The rival with most votes."""
        return int(self.others.argmax())

    def like(self, draws: int) -> "Votes":
        """The votes that so many draws would give on average, rounded down for the label and up for rivals."""
        times = draws / self.draws
        return Votes(int(self.label * times), torch.ceil(self.others * times).clamp_max(draws), draws)

    def shares(self) -> tuple[Tensor, Tensor]:
        """The shares of the label and of the strongest rival, off 0 and 1 by half a vote."""
        share = lambda votes: torch.tensor([(float(votes) + 0.5) / (self.draws + 1)], dtype=torch.float64)
        return share(self.label), share(self.others.max())

    def rejects(self, rival: int, tail: float) -> bool:
        """Whether the label leading this rival is refuted: wrong with probability at most ``tail``. The rival is chosen before the draws."""
        above = binomial_upper(torch.tensor([self.label]), self.draws, tail / 2)
        below = binomial_lower(self.others[rival][None], self.draws, tail / 2)
        return bool(below >= above)


def count_votes(
    question: Problem,
    i: int,
    laws: Mapping[str, Law],
    seed: int,
    purpose: str,
    draws: int,
    clipped: dict[str, float] | None = None,
    around: Mapping[str, Tensor] | None = None,
) -> Votes:
    """Votes of independent draws around the clean point of example i, or ``around`` another; those of another purpose are other draws."""
    label, others = 0.0, torch.zeros(1)
    clipped = dict.fromkeys(laws, 0.0) if clipped is None else clipped
    for block in points(question, i, laws, fold(seed, "smoothing", purpose), draws, clipped, around):
        mine, theirs = _block(question, i, block)
        label, others = label + mine, others + theirs
    return Votes(label, others.double(), draws)


def _block(question: Problem, i: int, point: Mapping[str, Tensor]) -> tuple[float, Tensor]:
    logits, rows = rows_at(question, torch.full((len(next(iter(point.values()))),), i), point)
    finite = logits.isfinite().all(1)
    holds = (margin(rows, question.spec.rank) > 0) & finite
    failing = finite & ~holds
    if not isinstance(question.spec, Untargeted):
        return float(holds.sum()), (~holds).sum()[None].double().cpu()
    # rows are logit of the label less those of the others, in order of class: the least row is the winner
    named = rows[failing].argmin(1).bincount(minlength=rows.shape[1])
    return float(holds.sum()), named.double().cpu()
