"""What every method file declares about itself, for ``brittle list``, the docs and the conformance suites."""

from dataclasses import dataclass
from math import inf

EVERY_NORM = (0, 1, 2, inf)


@dataclass(frozen=True)
class About:
    """The facts of one method. Every method file holds ``ABOUT = About(...)`` beside its function.

    promise    what a returned number means, in one plain sentence
    reference  paper or derivation the method comes from
    norms      the p of the balls it can handle (empty: norms do not apply)
    answers    the question it serves: "margin", "radius", "probability", ...
    leaves     what may move: "input", "parameter" or both
    cost       passes per example, in words
    effort     the least effort at which the questions run it by themselves: "quick", "standard", "thorough"; "" = only when named
    ends       which ends of a bracket it can move: "both", "lower" or "upper"
    unless     methods of the family whose presence among those of an effort leaves this one out: they do its work, at its cost or better
    refines    an attack that starts from the best witness of all others: it runs after them, on the examples that have one
    guarantee  of those ends where the family leaves it open (noise): "proved" or "statistical"; "" = by its ends, upper alone is proved
    """

    promise: str
    reference: str
    norms: tuple[float, ...] = ()
    answers: str = ""
    leaves: tuple[str, ...] = ("input", "parameter")
    cost: str = ""
    effort: str = ""
    ends: str = "both"
    guarantee: str = ""
    unless: tuple[str, ...] = ()
    refines: bool = False
