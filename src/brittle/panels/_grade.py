"""The grade of the evidence: how much of what a report says may be relied on. It does not grade the network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from brittle.panels._data import Answers

CLOSED = 1.05  # upper / lower within 5 %: the project's own convention for a closed bracket, nothing derived
MEANING = {
    "A": "bracket closed: proof and witness agree within 5 % in the median",
    "B": "all checks passed, and certificates exist",
    "C": "all checks passed, but proofs are missing",
    "D": "read with the doubts below",
    "F": "invalid: do not use these numbers",
}


@dataclass(frozen=True)
class Grade:
    """A letter from A (best evidence) to F, its meaning, and what decided it."""

    letter: str
    reason: str

    @property
    def meaning(self) -> str:
        return MEANING[self.letter]


def grade(
    checks: Iterable[Mapping],
    radii: Iterable[Answers],
    probabilities: Iterable[Answers] = (),
    commons: Iterable[Answers] = (),
) -> Grade:
    """The grade of one model: from its checks, and from its answers, one per region and per law.

    F  a check says "invalid" or "stop", or a lower end lies above its upper end
    D  a check warns, or nothing was measured (no answer, every example misclassified, neither proof nor witness)
    A  in every region the median of upper / lower over the correctly classified examples is at most 1.05; for one change common to
       all examples, attacked accuracy is at most 1.05 times certified
    B  in every region some lower end is proved; without a region: some upper end of every probability is
    C  otherwise: witnesses or statistics alone
    """
    checks, radii, probabilities, commons = list(checks), list(radii), list(probabilities), list(commons)
    regions = radii + commons
    failed = [c for c in checks if c.get("consequence") in ("invalid", "stop")]
    if failed:
        return Grade("F", f"check “{_name(failed[0])}” failed" + _others(failed))
    if any(_inverted(a) for a in regions):
        return Grade("F", "a proved lower end lies above a witnessed upper end: one of the two has a bug")
    doubted = [c for c in checks if c.get("consequence") == "warn"]
    if doubted:
        return Grade("D", f"check “{_name(doubted[0])}” warns" + _others(doubted))
    if not regions and not probabilities:
        return Grade("D", "nothing was measured")
    if any(a.misclassified.all() for a in radii):
        return Grade("D", "every example is misclassified before anything moves")
    if regions and all(ratio(a) <= CLOSED for a in radii) and all(_closed(a) for a in commons):
        return Grade("A", "proof and witness meet in every region")
    open_ = [not _proved(a) and not np.isfinite(a.upper).any() for a in radii]
    if any(open_) or any(not _proved(a) and not _broken(a).any() for a in commons):
        return Grade("D", "in some region nothing was proved and no witness was found")
    if all(_proved(a) for a in regions) if regions else all("proved" in a.upper_kind for a in probabilities):
        return Grade("B", "every region has certificates" if regions else "every law has proved ends")
    return Grade("C", "some region has no certificate" if regions else "some law has statistical ends only")


def ratio(radius: Answers) -> float:
    """Median of upper / lower over the correctly classified examples; infinite where nothing is proved or found."""
    right = ~radius.misclassified
    if not right.any():
        return float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(radius.lower[right] > 0, radius.upper[right] / radius.lower[right], np.inf)
    return float(np.median(quotient)) if np.isfinite(quotient).any() else float("inf")


def _closed(common: Answers) -> bool:
    """Of one change common to all examples: the ends are margins, and the accuracies their shares above 0."""
    certified, attacked = (common.lower > 0).mean(), (common.upper > 0).mean()
    return not np.isnan(common.upper).any() and certified > 0 and bool(attacked <= CLOSED * certified)


def _broken(common: Answers) -> np.ndarray:
    """Right before anything moved, wrong under the common change."""
    return (common.clean_margin > 0) & (common.upper <= 0)


def _proved(answers: Answers) -> bool:
    return any(k == "proved" and v > 0 for k, v in zip(answers.lower_kind, answers.lower, strict=True))


def _inverted(answers: Answers) -> bool:
    # 1e-9 is the slack that Bracket itself grants to rounding
    hard = np.array([low != "statistical" != high for low, high in zip(answers.lower_kind, answers.upper_kind)], bool)
    with np.errstate(invalid="ignore"):
        return bool((hard & (answers.lower > answers.upper * (1 + 1e-9) + 1e-9)).any())


def _name(check: Mapping) -> str:
    return str(check.get("title") or check.get("name"))


def _others(found: list) -> str:
    return f", and {len(found) - 1} more" if len(found) > 1 else ""
