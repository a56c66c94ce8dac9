"""A3, A4, A5, S1, S2, S6, S7, S11: do other attacks break what these left, or break it inside a certified ball?"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import affordable, failed, passed, survivors
from brittle.problem import Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="A3, A4, A5, S1, S2, S6, S7, S11: single steps, more steps, other steps and starts, smaller regions, blind attacks and a smoothed copy break no survivor",
    reference="Carlini et al. 2019, checklist; Chao, Biometrics 1987 (what all runs have missed)",
    answers="after",
    cost="about 850 passes on each of at most 8 examples, at most 15 % of what the answer cost",
    effort="standard",
)
TITLE = "other attacks on the survivors (A3, A4, A5, S1, S2, S6, S7, S11)"
MOST = 8  # survivors that are attacked again
PRICE = 900  # passes of all rivals on one example, rounded up
SHARE = 0.15  # of the passes that the answer has cost, at most; with the 0.05 of unfinished a fifth
SLACK = 1e-6
MANY = 0.25  # share of the tested survivors, up to which radii that are 5 % too long are a warning whatever shortens them (folklore)
SHOWS = {  # what a rival's success is a sign of, its grade for one example, and for more than one
    "single step": ("S1: a single step beats the iterations", "invalid", "invalid"),
    "half the region": ("S2: a search in a smaller region finds more", "invalid", "invalid"),
    "twice the steps": ("A3: the attack has not converged", "warn", "warn"),
    "short steps": ("A5: its step is too long", "warn", "warn"),
    "long steps": ("A5: its step is too short", "warn", "warn"),
    "random start": ("A4: too few restarts", "warn", "warn"),
    "square": ("S6: black box beats white box", "warn", "invalid"),
    "boundary_walk": ("S6: black box beats white box", "warn", "invalid"),
    "smoothed copy": ("S7: transfer from a smoothed copy beats white box", "warn", "warn"),
}
ORDER = ("none", "note", "warn", "invalid", "stop")


def other_attacks(
    problem: Problem,
    bracket: Bracket,
    *,
    seed: int = 0,
    rivals: Callable[[Problem], Mapping[str, Callable]] | None = None,
) -> Finding:
    """Every rival on a random few of the survivors: inside 0.95 times the witnessed radius, or inside the region that left a margin.

    rivals  name -> attack for a problem; attacks are another family's, so they are handed over. What all random starts have missed
            is Chao's estimate ``(m - 1) / m  f1 (f1 - 1) / (2 (f2 + 1))``, f_k the survivors that k of the m runs break.
    """
    scale = survivors(problem, bracket)
    at = affordable(scale, bracket, MOST, PRICE, SHARE, seed, "other_attacks")
    if rivals is None or not len(at):
        reasons = ("no survivor is left", f"it costs {PRICE} passes an example, more than {SHARE:.0%} of the answer")
        reason = "no other attacks were handed over" if rivals is None else reasons[bool((scale > 0).any())]
        return passed("other_attacks", TITLE, f"Not judged, because {reason}.", value="not judged")
    part = problem.take(at)
    part = part.scaled(scale[at] / part.scale)
    broken, nearest = {}, torch.full((len(at),), torch.inf, dtype=torch.float64)
    for name, attack in rivals(part).items():
        witness = attack(part, seed=seed)
        size = torch.where(witness.found, part.size(witness.point), torch.inf)
        broken[name] = size <= part.scale * (1 + SLACK)
        nearest = torch.where(broken[name], torch.minimum(nearest, size), nearest)
    inside = at[_refuted(problem, bracket, at, nearest)]
    return _verdict(broken, at, inside, MANY if bracket.quantity == "radius" else 0.0)


def _refuted(problem: Problem, bracket: Bracket, at: Tensor, nearest: Tensor) -> Tensor:
    """(K,) bool: a rival's point lies where the property was certified."""
    lower = bracket.lower[at]
    if bracket.quantity == "margin":
        return nearest.isfinite() & (lower > 0)
    return nearest < lower * (1 - SLACK)


def _verdict(broken: Mapping[str, Tensor], at: Tensor, inside: Tensor, many: float) -> Finding:
    starts = [hits for name, hits in broken.items() if name.startswith("random start")]
    more = chao(torch.stack(starts)) if starts else 0.0
    missed = f"; starts that nobody tried would break about {more:.0f} more" if more >= 0.5 else ""
    found = {name: int(hits.sum()) for name, hits in broken.items() if bool(hits.any())}
    any_ = int(torch.stack(list(broken.values())).any(0).sum()) if broken else 0
    value = ", ".join(f"{name} {count}" for name, count in found.items()) or f"0 of {len(at)}"
    if len(inside):
        return failed(
            "other_attacks",
            TITLE,
            "stop",
            f"Another attack breaks {len(inside)} examples inside their certified region (S11).",
            f"The certificates of examples {inside[:5].tolist()} are refuted by an attack, so a bound has a bug; report it together with "
            "the model.",
            value=value,
            threshold="0",
        )
    if not found:
        note = f"{len(broken)} other attacks break none of {len(at)} survivors 5 % closer than the witnesses{missed}."
        return passed("other_attacks", TITLE, note, value=value, threshold="0")
    shown = {name: _shown(name) for name in found}
    graded = ("warn" if hits <= many * len(at) else shown[name][1 + (hits > 1)] for name, hits in found.items())
    grade = max(graded, key=ORDER.index)
    signs = list(dict.fromkeys(sign for sign, *_ in shown.values()))
    return failed(
        "other_attacks",
        TITLE,
        grade,
        f"Other attacks break {any_} of {len(at)} survivors clearly closer than their witnesses ({'; '.join(signs)}){missed}.",
        f"Other attacks find what the attacks missed ({value}), so the upper ends are too large; look at the gradient checks, "
        'attack with effort="thorough", or name the attack that won.',
        value=value,
        threshold="0",
    )


def _shown(name: str) -> tuple[str, str, str]:
    return next((says for known, says in SHOWS.items() if name.startswith(known)), (f"{name} wins", "warn", "warn"))


def chao(broken: Tensor) -> float:
    """How many examples (M runs, N examples, bool) that no run breaks another one would: Chao's lower estimate, bias-corrected.

    >>> chao(torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1]]).bool())  # two broken once, one twice: 1/2 of 2 1 / (2 2)
    0.25
    """
    runs, times = len(broken), broken.sum(0)
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    return (runs - 1) / runs * once * max(0, once - 1) / (2 * (twice + 1))
