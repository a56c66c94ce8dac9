"""The same networks in l1 and l-inf: perturbations off the data's subspace, inside it, and what removing the off part gains."""

from collections.abc import Callable, Mapping
from math import inf, isfinite, log, pi, sqrt

import torch

from brittle.randomness import fold
from brittle.studies import _subspace_planted as planted
from brittle.studies._medians import Middle, median_of, slope
from brittle.studies._parts import Part, curve, measured
from brittle.studies._study import Claim, Plot, Table

DIMENSIONS, RUNS, ATTACKED = (50, 100, 200, 400), 10, 6
NORMS = {"l1": 1, "l2": 2, "linf": inf}
SIDES = {"off": "orthogonal_to", "on": "within", "all": None}


def norms(dimension: int, run: int, seed: int) -> dict:
    """A planted network of :mod:`brittle.studies._subspace_planted`, attacked in three norms inside the span, orthogonal to it and anywhere; lengths over |x|."""
    from brittle.cures.surgery import surgery
    from brittle.problem import Problem
    from brittle.subspace import Subspace

    draw = torch.Generator().manual_seed(fold(seed, "planted", run, dimension, planted.RANK))
    x, labels = planted._points(dimension, planted.RANK, draw)
    module = planted._network(dimension, 1.0, 2, draw, False)
    done, _, _ = planted._trained(module, x, labels, "sgd", 0.0, 0, seed)
    right = (Problem(done, x, labels).margin() > 0).nonzero()[:ATTACKED, 0]
    x, labels, plane = x[right], labels[right], Subspace.span(x)
    ours: dict[str, float | None] = {}
    for name, p in NORMS.items():
        length = x.norm(p=p, dim=1)
        for side, word in SIDES.items():
            ours[f"{name}_{side}"] = _median(_sizes(done, x, labels, p, {word: plane} if word else {}) / length)
        cured = _sizes(surgery(done, plane), x, labels, p, {})
        ours[f"{name}_gain"] = _median(cured / _sizes(done, x, labels, p, {}))
    off, margin = _off_gradient(done, x, labels, plane)
    expected = {"l1": sqrt(2 * log(dimension)), "l2": sqrt(dimension), "linf": dimension * sqrt(2 / pi)}
    scale = off / sqrt(plane.codimension)  # the standard deviation of an entry of the frozen gradient
    return {
        **ours,
        **{f"{n}_law": _median(margin / (scale * e) / x.norm(p=NORMS[n], dim=1)) for n, e in expected.items()},
    }


def _sizes(module, x, labels, p: float, ball: dict) -> torch.Tensor:
    from brittle.problem import Problem
    from brittle.questions.radius import radius
    from brittle.region import Ball

    return radius(Problem(module, x, labels, Ball(p=p, radius=1.0, **ball)), effort="quick", ends="upper").upper


def _off_gradient(module, x, labels, plane) -> tuple[torch.Tensor, torch.Tensor]:
    from brittle.problem import Problem
    from brittle.region import Ball

    problem = Problem(module, x, labels, Ball(p=2, radius=1.0))
    return plane.off(problem.gradient(problem.centre)[1]["x"]).norm(dim=1), problem.margin()


def _median(values: torch.Tensor) -> float | None:
    middle = float(values.median()) if len(values) else inf
    return middle if isfinite(middle) else None


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs in every dimension."""
    return {f"norms-d{d}-{run}": (norms, d, run, seed) for run in range(RUNS) for d in DIMENSIONS}


def part(found: Mapping[str, dict]) -> Part:
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"norms-{word}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle), plots(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    last = f"d{DIMENSIONS[-1]}"
    falls = {n: slope(DIMENSIONS, [middle(f"d{d}", f"{n}_off").value for d in DIMENSIONS]) for n in NORMS}
    gains = {n: middle(last, f"{n}_gain") for n in NORMS}
    law = {n: middle(last, f"{n}_off").value / middle(last, f"{n}_law").value for n in NORMS}
    return (
        Claim(
            "The off distance falls with the dimension in l1 and l-inf as it does in l2", "ours",
            "ours" if all(-0.9 < v < -0.3 for v in falls.values()) else "not reproduced",
            f"exponent of d, relative to |x| in the same norm, d = {DIMENSIONS[0]} to {DIMENSIONS[-1]}: " + ", ".join(f"{n} {v:.2f}" for n, v in falls.items())
            + " (a frozen Gaussian gradient predicts -0.5, up to logarithms)",
        ),
        Claim(
            "In every norm surgery removes most of the weakness off the data", "ours",
            "ours" if all(g.low > 1 for g in gains.values()) else "not reproduced",
            f"in R^{DIMENSIONS[-1]} surgery lengthens the smallest perturbation by " + ", ".join(f"{n} {g}" for n, g in gains.items())
            + "; off distance over that of a Gaussian gradient of the measured length: " + ", ".join(f"{n} {v:.2f}" for n, v in law.items()),
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    rows = tuple(
        (f"R^{d}", n, *(_cell(middle(f"d{d}", f"{n}_{w}")) for w in ("off", "law", "on", "all", "gain")))
        for d in DIMENSIONS
        for n in NORMS
    )
    columns = (
        "data in 10 dimensions of",
        "norm",
        "off distance / |x|",
        "(Gaussian gradient)",
        "on distance / |x|",
        "distance / |x|",
        "surgery gains",
    )
    note = (
        f"Medians over ten runs [95 % interval] of medians over {ATTACKED} inputs; every length in the row's own norm. Restricted l1 and l-inf balls are attacked only. "
        "A Gaussian gradient in R^d of the same length predicts margin / (s sqrt(2 ln d)), margin / (s sqrt(d)) and margin / (s d sqrt(2/pi)) with s the spread of its entries."
    )
    return (Table("Off the data in l1, l2 and l-inf", columns, rows, note),)


def _cell(middle: Middle) -> str:
    return str(middle) if middle.runs else "–"


def plots(middle: Callable[[str, str], Middle]) -> tuple[Plot, ...]:
    at = lambda name: [middle(f"d{d}", name) for d in DIMENSIONS]
    first = middle(f"d{DIMENSIONS[0]}", "l2_off").value * sqrt(DIMENSIONS[0])
    return (
        Plot(
            "The off distance falls alike in every norm", "dimension d of the input (the data fill 10)", "smallest off perturbation / |x|, own norm",
            (*(measured(n, DIMENSIONS, at(f"{n}_off")) for n in NORMS), curve("1/sqrt(d)", DIMENSIONS, [first / sqrt(d) for d in DIMENSIONS])),
            log_x=True, log_y=True,
        ),
    )  # fmt: skip
