"""A2: is the attack still on its way down when its steps run out?"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import affordable, failed, passed, share, survivors
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.spec import Specification, margin

ABOUT = About(
    promise="A2: descent of the margin has come to rest: its last tenth lowers it by at most 5 % of the whole way",
    reference="Pintor et al., Indicators of attack failure, NeurIPS 2022: incomplete optimisation",
    answers="after",
    cost="80 steps of one attack on at most 8 examples, at most 5 % of what the answer cost",
    effort="standard",
)
TITLE = "unfinished descent (A2)"
LAST, MOVED = 0.1, 0.05  # of the reference
MOST, SHARE = 8, 0.05
MANY = 0.5  # share of the examples: single ones are what other_attacks asks about (folklore)


@dataclass(frozen=True, eq=False)
class Watched:
    """A specification that remembers the margins of every query."""

    inner: Specification
    seen: list[Tensor]

    @property
    def rank(self) -> int:
        return self.inner.rank

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        rows = self.inner.rows(logits, labels)
        self.seen.append(margin(rows.detach(), self.rank).double().cpu())
        return rows

    def take(self, indices: Tensor) -> "Watched":
        return Watched(self.inner.take(indices), self.seen)

    def check(self, labels: Tensor, outputs: int) -> None:
        self.inner.check(labels, outputs)

    def facts(self) -> dict[str, object]:
        return self.inner.facts()


def unfinished(
    problem: Problem, bracket: Bracket, *, seed: int = 0, attack: Callable | None = None, steps: int = 80
) -> Finding:
    """The running minimum of the margin over the queries of one attack at the size where the attacks stopped.

    attack  a search of ``steps`` gradient steps inside the region, handed over (attacks are another family's)
    """
    scale = survivors(problem, bracket)
    at = affordable(scale, bracket, MOST, 2 * steps + 6, SHARE, seed, "unfinished")
    if attack is None or not len(at):
        return passed(
            "unfinished",
            TITLE,
            "Not judged, because no attack was handed over, no survivor is left, or it would cost too much.",
            value="not judged",
        )
    seen: list[Tensor] = []
    part = replace(problem.take(at), scale=scale[at])
    attack(replace(part, spec=Watched(part.spec, seen)), seed=seed, steps=steps, restarts=1)
    queries = [margins for margins in seen if len(margins) == len(at)][:steps]
    if len(queries) < steps:
        return passed(
            "unfinished", TITLE, "Not judged, because the attack asks about parts of the batch.", value="not judged"
        )
    moving = late(torch.stack(queries)) > MOVED
    value, threshold = f"{int(moving.sum())} of {len(at)} examples", f"{MOVED:.0%} of the way in the last {LAST:.0%}"
    note = f"The margin of {value} is still falling in the last tenth of {steps} steps."
    if share(moving) <= MANY:
        return passed("unfinished", TITLE, note, value=value, threshold=threshold, remark=bool(moving.any()))
    return failed(
        "unfinished",
        TITLE,
        "warn",
        note,
        'Attacks run out of steps before they come to rest, so the upper ends are too large; attack with effort="thorough" or with '
        "more steps.",
        value=value,
        threshold=threshold,
    )


def late(margins: Tensor) -> Tensor:
    """(N,) share of the way down (K steps, N) that is made in the last tenth of the steps; 0 where nothing falls.

    >>> late(torch.linspace(1, 0, 11)[:, None]).tolist()  # a steady fall
    [0.10000000149011612]
    """
    lowest = margins.nan_to_num(nan=torch.inf).cummin(0).values
    way = lowest[0] - lowest[-1]
    rest = lowest[-1 - max(1, round(LAST * (len(lowest) - 1)))] - lowest[-1]
    return torch.where(way > 0, rest / way.clamp_min(torch.finfo(way.dtype).tiny), torch.zeros_like(way))
