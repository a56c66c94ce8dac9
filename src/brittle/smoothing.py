"""A smoothed model as a question of an audit: the noise on top, the distance, the draws, the confidence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from brittle.errors import InputError
from brittle.laws import Laplace, Law, Replace, UniformBall, as_laws
from brittle.problem import Problem
from brittle.questions._smoothing import reach_of
from brittle.questions.smoothed_radius import DRAWS, SELECTION, smoothed_radius
from brittle.records import check_name
from brittle.region import Ball, Region
from brittle.results import Bracket

LEVEL = 0.999  # of each example's bracket: Cohen et al. 2019


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What :func:`brittle.smoothed_radius` is asked: ``laws`` and ``region`` by leaf, ``draws`` (of them ``selection`` apart) and ``level``."""

    laws: Mapping[str, Law]
    region: Region
    draws: int
    selection: int = SELECTION
    level: float = LEVEL

    def facts(self) -> dict[str, object]:
        """Plain values for the plan."""
        by_leaf = lambda values: {leaf: value.facts() for leaf, value in values.items()}
        numbers = {"draws": self.draws, "selection": self.selection, "level": self.level}
        return {"laws": by_leaf(self.laws), "region": by_leaf(self.region), **numbers}

    def check(self, problem: Problem) -> None:
        """Errors: InputError where there is no certificate for these laws on these leaves."""
        moved = problem.within(self.region)
        for leaf, law in self.laws.items():
            law.check(leaf, tuple(moved.centre[leaf].shape[1:]))
        reach_of(moved, self.laws)

    def answer(self, problem: Problem, seed: int) -> Bracket:
        """The bracket, with the share of the votes for the label as its estimate."""
        told = {"level": self.level, "draws": self.draws, "selection": self.selection}
        bracket = smoothed_radius(problem, self.laws, seed=seed, **told)
        votes = bracket.diagnostics["votes of the label"]
        return replace(bracket, estimate=votes / self.draws)


def named_smoothed(asked: Mapping[str, Law | Mapping[str, Law]], effort: str) -> dict[str, Smoothed]:
    """Every law with the ball that it certifies at radius 1, so that the scale is the distance.

    >>> from brittle.laws import Gaussian
    >>> named_smoothed({"smooth": Gaussian(0.25)}, "quick")["smooth"].region
    {'x': Ball(p=2, radius=1.0)}
    """
    if not isinstance(asked, Mapping):
        do = 'name it: {"smooth": bt.Gaussian(0.25)}'
        raise InputError("smoothed", "a mapping from names to laws", type(asked).__name__, do)
    made = {}
    for name, law in asked.items():
        laws = as_laws(law)
        region = {leaf: Ball(_native(one), 1.0) for leaf, one in laws.items()}
        made[check_name("name of a smoothed model", name)] = Smoothed(
            laws, region, DRAWS.get(effort, DRAWS["standard"])
        )
    return made


def _native(law: Law) -> float:
    """The norm in which smoothing by this law certifies; others are refused when the question is checked."""
    if isinstance(law, Replace):
        return 0
    return 1 if isinstance(law, Laplace) or (isinstance(law, UniformBall) and law.p == inf) else 2
