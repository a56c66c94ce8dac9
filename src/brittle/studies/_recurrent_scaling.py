"""Networks before and after their spectrum is normalised: accuracy, stability and robustness are three things."""

from collections.abc import Callable, Mapping

import numpy as np

from brittle.studies._medians import Middle
from brittle.studies._parts import Part, shown, verdict
from brittle.studies._recurrent_cells import DRAWN, LEVELS, PICTURES, ROBUST, plain
from brittle.studies._recurrent_measures import DISK, SHARE, SIZE, worst
from brittle.studies._recurrent_nets import KINDS, TASKS
from brittle.studies._recurrent_parts import (
    PAPER,
    RUNS,
    Found,
    mean_of,
    plain_key,
    runs_of,
    settings,
    tasks,
)  # fmt: skip
from brittle.studies._study import Claim, Curve, Plot, Table

VARIANTS = {
    "none": "as trained",
    "radius": "radius 1",
    "norm": "norm 1",
    "robust": f"robust ({ROBUST:g})",
    "power": "power method",
}
SCALINGS = ("radius", "norm", "robust")


def calls(full: bool, seed: int) -> dict[str, tuple]:
    return {
        plain_key(task, kind, run): (plain, task, kind, run, seed)
        for task in tasks(full) for kind in KINDS for run in range(RUNS)
    }  # fmt: skip


# ---- what is said of it ----------------------------------------------------------------------------------------------


READ: Mapping[str, Callable[[dict], float | None]] = {
    "clean": lambda r: r["clean"],
    "radius": lambda r: worst(r["blocks"], "radius"),
    "distance": lambda r: worst(r["blocks"], "distance"),
    "pseudospectral radius": lambda r: worst(r["blocks"], "pseudospectral radius"),
    "absolute": lambda r: r["changes"]["loss absolute"],
    "relative": lambda r: r["changes"]["loss relative"],
    "input": lambda r: r["input"],
    "lost absolute": lambda r: r["clean"] - r["changes"]["loss absolute"],
    "lost relative": lambda r: r["clean"] - r["changes"]["loss relative"],
    "lost input": lambda r: r["clean few"] - r["input"],
    "henrici": lambda r: worst(r["blocks"], "henrici"),
    "condition": lambda r: worst(r["blocks"], "condition"),
    "scaled distance": lambda r: worst(r["blocks"], "scaled distance"),
    "scaled kreiss": lambda r: worst(r["blocks"], "scaled kreiss"),
    "scaled transient": lambda r: worst(r["blocks"], "scaled transient"),
    "random": lambda r: r["changes"]["random absolute"],
    "rank-one": lambda r: r["changes"]["rank-one absolute"],
    "kick": lambda r: r["changes"]["kick relative"],
    "unstable": lambda r: r["data"]["unstable share"],
    "data radius": lambda r: r["data"]["mean radius"],
    "data distance": lambda r: r["data"]["distance"],
    "data kreiss": lambda r: r["data"]["scaled kreiss"],
    "data transient": lambda r: r["data"]["scaled transient"],
    "data norm": lambda r: r["data"]["norm"],
    "growth": lambda r: r["data"]["growth"],
}


def middle(found: Found, task: str, kind: str, quantity: str, recipe: str = "none", variant: str = "none") -> Middle:
    return mean_of([READ[quantity](r) for r in runs_of(found, task, kind, recipe, variant)])


def part(found: Found) -> Part:
    pairs = settings(found)
    pictures = tuple(p for kind in KINDS for p in _pictures(found, kind))
    tables = (accuracies(found, pairs), shapes(found, pairs), along(found, pairs))
    accurate, normalised, fragile, shaped, computed = claims(found, pairs)
    linked = (
        *shown(tables[1], accurate), *shown(tables[0], normalised, fragile), *shown(pictures[0] if pictures else tables[1], shaped), *shown(tables[1], computed),
    )  # fmt: skip
    return Part(linked, tables, pictures)


def claims(found: Found, pairs: list[tuple[str, str]]) -> tuple[Claim, ...]:
    at = lambda pair, quantity, variant="none": middle(found, pair[0], pair[1], quantity, variant=variant)
    words = lambda pair: f"{TASKS[pair[0]].words}, {KINDS[pair[1]]}"
    each = lambda say: "; ".join(f"{words(p)}: {say(p)}" for p in pairs)
    unstable = [p for p in pairs if at(p, "radius").low > 1]
    fragile = [p for p in pairs if at(p, "lost absolute").low > 0.1]
    # stable after normalisation by radius, and then easier to break than before
    worse = [p for p in pairs if at(p, "lost absolute", "radius").low > at(p, "lost absolute").high]
    relative = [p for p in pairs if at(p, "lost relative", "radius").low > at(p, "lost relative").high]
    still = [p for p in pairs if at(p, "lost absolute", "radius").low > 0.1]
    cost = [p for p in pairs if at(p, "clean").value - at(p, "clean", "radius").value > 0.01]
    rules = [rule for p in pairs for run in range(RUNS) if (key := plain_key(p[0], p[1], run)) in found for rule in found[key]["power"]["rules"].values()]  # fmt: skip
    shaped = [p for p in pairs if at(p, "scaled kreiss").low > _start(found, p, "scaled kreiss").high]
    normal = [p for p in pairs if at(p, "henrici").low > 0.1]
    count = len(pairs)
    return (
        Claim(
            "An accurate recurrent network need be neither stable nor robust to small changes", PAPER,
            verdict(len(unstable) > count / 2 and len(fragile) > count / 2, "not reproduced"),
            f"spectral radius of a block above 1 in {len(unstable)} of {count} settings, more than ten points lost to a change of spectral norm {SIZE:g} of every block in {len(fragile)}. "
            "Clean accuracy, radius, accuracy after the change: " + each(lambda p: f"{at(p, 'clean')}, {at(p, 'radius')}, {at(p, 'absolute')}"),
        ),
        Claim(
            "Normalising the spectrum to the unit disk makes the network stable", PAPER,
            "only when" if count else "not reproduced",
            "only for the linear part, and only to its boundary: the radius is 1, so the distance to instability is 0; it is "
            f"{ROBUST:g} after robust normalisation. It costs more than one point of accuracy in {len(cost)} of {count} settings. Accuracy as trained / radius 1 / norm 1 / robust: "
            + each(lambda p: " / ".join(str(at(p, "clean", v)) for v in ("none", *SCALINGS))),
        ),
        Claim(
            "Normalised networks are strongly non-robust", PAPER,
            verdict(len(worse) > count / 2 and len(relative) > count / 2, "only when" if still else "not reproduced"),
            f"more than ten points are lost at radius 1 in {len(still)} of {count} settings, and as trained in {len(fragile)}: they stay fragile; whether normalising makes it worse is another question. "
            f"Points of accuracy lost to the worst change found, as trained against radius 1: more after normalisation, with intervals apart, in {len(worse)} of {count} settings for changes "
            f"of absolute norm {SIZE:g}, in {len(relative)} of {count} for {SHARE:.0%} of each block's own norm (the blocks shrank, so an absolute change is a larger share of them). Lost, absolute: "
            + each(lambda p: f"{at(p, 'lost absolute')} against {at(p, 'lost absolute', 'radius')}")
            + ". Lost, relative: " + each(lambda p: f"{at(p, 'lost relative')} against {at(p, 'lost relative', 'radius')}"),
        ),
        Claim(
            "Gradient training often produces non-normal matrices that may or may not be diagonalisable", PAPER,
            "only when" if len(normal) == count and len(shaped) < count else verdict(len(normal) == count),
            f"non-normal everywhere, but the untrained matrices are too: at radius {DISK:g} the Kreiss constant is above that of the start, with intervals apart, in {len(shaped)} of {count} settings. "
            "The largest condition of the eigenvectors, infinite for a matrix that cannot be diagonalised, is " + each(lambda p: f"{at(p, 'condition')} (start {_start(found, p, 'condition')})"),
        ),
        Claim(
            "The power method with the Rayleigh quotient finds the radius of a trained recurrent matrix", f"{PAPER}, its method",
            "not reproduced" if rules.count("power") < 0.9 * len(rules) else "reproduced",
            f"it converged on {rules.count('power')} of {len(rules)} blocks; a complex pair dominated {rules.count('pair')}, and {rules.count('eigenvalues')} needed all eigenvalues",
        ),
    )  # fmt: skip


def _start(found: Found, pair: tuple[str, str], quantity: str) -> Middle:
    keys = [plain_key(pair[0], pair[1], run) for run in range(RUNS)]
    return mean_of([worst(found[key]["start"], quantity) for key in keys if key in found])


def _rows(found: Found, pairs: list[tuple[str, str]], quantities: Mapping[str, str]) -> tuple[tuple, ...]:
    return tuple(
        (TASKS[task].words, KINDS[kind], VARIANTS[how], *(str(middle(found, task, kind, q, variant=how)) for q in quantities))
        for task, kind in pairs for how in VARIANTS if how != "power"
    )  # fmt: skip


ACCURACIES = {
    "clean": "clean", "random": f"random, {SIZE:g}", "rank-one": f"rank one, {SIZE:g}", "absolute": f"worst found, {SIZE:g}",
    "relative": f"worst found, {SHARE:.0%}", "kick": f"kick of the state, {SHARE:.0%}", "input": "inputs attacked",
}  # fmt: skip
SHAPES = {
    "radius": "radius", "distance": "distance to instability", "pseudospectral radius": f"pseudospectral radius, {SIZE:g}", "henrici": "Henrici / norm", "condition": "condition of eigenvectors",
    "scaled distance": f"distance at {DISK:g}", "scaled kreiss": f"Kreiss at {DISK:g}", "scaled transient": f"transient at {DISK:g}",
}  # fmt: skip
ALONG = {
    "data radius": "mean radius", "unstable": "share with radius >= 1", "data norm": "norm of one step", "growth": "growth over the sequence",
    "data distance": "distance to instability", "data kreiss": f"Kreiss at {DISK:g}", "data transient": f"transient at {DISK:g}",
}  # fmt: skip
MEANS = "Means of the runs with Student's 95 % intervals."


def accuracies(found: Found, pairs: list[tuple[str, str]]) -> Table:
    radii = ", ".join(f"{TASKS[task].words} {TASKS[task].input:g}" for task in dict.fromkeys(task for task, _ in pairs))
    return Table(
        "Accuracy before and after each normalisation", ("data", "network", "spectrum", *ACCURACIES.values()), _rows(found, pairs, ACCURACIES),
        f"{MEANS} One change of every recurrent block, its size in the spectral norm or as a share of the block's own norm; inputs move by the l-inf radius: {radii}.",
    )  # fmt: skip


def shapes(found: Found, pairs: list[tuple[str, str]]) -> Table:
    begun = tuple(
        (TASKS[p[0]].words, KINDS[p[1]], "untrained", *(str(_start(found, p, q)) for q in SHAPES)) for p in pairs
    )
    return Table(
        "Recurrent matrices before and after each normalisation", ("data", "network", "spectrum", *SHAPES.values()), (*begun, *_rows(found, pairs, SHAPES)),
        f"{MEANS} The worst gate block. The last three columns are those of the block scaled to radius {DISK:g}, where a normal matrix has {1 - DISK:.2g}, 1 and 1.",
    )  # fmt: skip


def along(found: Found, pairs: list[tuple[str, str]]) -> Table:
    return Table(
        "Jacobians along data before and after each normalisation", ("data", "network", "spectrum", *ALONG.values()), _rows(found, pairs, ALONG),
        f"{MEANS} Derivatives of a state by the one before, at the states that test sequences pass; pseudospectral columns: medians of a few of them.",
    )  # fmt: skip


def _pictures(found: Found, kind: str) -> list[Plot]:
    made = found.get(plain_key("digits", kind, 0), {}).get("pictures", {})
    return [_plot(kind, how, made[how]) for how in PICTURES if how in made]


def _plot(kind: str, how: str, made: Mapping) -> Plot:
    angles = np.linspace(0, 2 * np.pi, 181)
    circle = Curve("unit circle", tuple(np.cos(angles).round(4).tolist()), tuple(np.sin(angles).round(4).tolist()))
    dots = lambda label, xy: Curve(label, tuple(xy[0]), tuple(xy[1]), style="points")
    thin = lambda xy: [xy[0][::2], xy[1][::2]]  # dots a pixel apart say no more than every other one
    lines = [
        dots(f"boundary of eps = {e:g}", thin(xy)) for e, xy in zip(LEVELS, made["lines"], strict=True) if xy and xy[0]
    ]
    block = f", block {DRAWN[kind]}" if DRAWN[kind] else ""
    return Plot(
        f"Pseudospectra of a {KINDS[kind]} on digits{block}: {VARIANTS[how]}", "real part", "imaginary part",
        (circle, *lines, dots("eigenvalues", made["eigenvalues"])),
        "What a change of spectral norm eps can do to the eigenvalues. The two axes have scales of their own.",
    )  # fmt: skip
