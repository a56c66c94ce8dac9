"""Training for accuracy, stability and robustness together: who is on the front, and who beats plain training and plain normalisation."""

from collections.abc import Sequence
from typing import NamedTuple

from brittle.studies._medians import Middle
from brittle.studies._parts import Part, shown
from brittle.studies._recurrent_cells import cure
from brittle.studies._recurrent_measures import EPSILON, SHARE, SIZE
from brittle.studies._recurrent_nets import KINDS, RECIPES, TASKS
from brittle.studies._recurrent_parts import PAPER, RUNS, Found, cure_key, recipes, runs_of, settings, tasks
from brittle.studies._recurrent_scaling import READ, SCALINGS, VARIANTS, mean_of
from brittle.studies._study import Claim, Curve, Plot, Table

POINT = 0.01  # "at equal clean accuracy": not more than one point below
AXES = ("clean", "pseudospectral radius", "absolute", "relative", "input")
RIVALS = ("none", "radius", "norm")
NORMALISED = tuple((how, VARIANTS[how]) for how in SCALINGS)


def calls(full: bool, seed: int) -> dict[str, tuple]:
    return {
        cure_key(task, kind, recipe, run): (cure, task, kind, recipe, run, seed)
        for task in tasks(full) for kind in KINDS for recipe in recipes(task, kind) for run in range(RUNS)
    }  # fmt: skip


class Candidate(NamedTuple):
    """One way to a network: plain training, a normalisation of it, or a training method, with a mean per axis."""

    key: str
    words: str
    means: dict[str, Middle]

    def beats(self, others: Sequence["Candidate"]) -> bool:
        """Not more than a point less accurate, and intervals apart on worst-case accuracy under absolute and under relative changes."""
        clear = lambda other, axis: self.means[axis].low > other.means[axis].high
        fair = lambda other: self.means["clean"].value >= other.means["clean"].value - POINT
        return all(fair(o) and clear(o, "absolute") and clear(o, "relative") for o in others)


def candidates(found: Found, task: str, kind: str) -> list[Candidate]:
    made = [("none", "plain", runs_of(found, task, kind))]
    made += [(how, words, runs_of(found, task, kind, variant=how)) for how, words in NORMALISED]
    made += [(name, RECIPES[name].words, runs_of(found, task, kind, name)) for name in RECIPES if name != "none"]
    return [
        Candidate(key, words, {a: mean_of([READ[a](r) for r in runs]) for a in AXES})
        for key, words, runs in made
        if len(runs) > 1
    ]


def front(made: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other is at least as good as in all five means (a smaller pseudospectral radius is better) and better in one."""
    better = lambda c, a: -c.means[a].value if a == "pseudospectral radius" else c.means[a].value
    beaten = lambda c, o: all(better(o, a) >= better(c, a) for a in AXES) and any(better(o, a) > better(c, a) for a in AXES)  # fmt: skip
    return [c for c in made if not any(beaten(c, o) for o in made)]


def winners(made: Sequence[Candidate]) -> list[Candidate]:
    """Training methods that beat plain training and both plain normalisations; the largest worst-case accuracy under absolute changes first."""
    rivals = [c for c in made if c.key in RIVALS]
    ours = [c for c in made if c.key not in (*RIVALS, *SCALINGS)]
    found = [c for c in ours if len(rivals) == len(RIVALS) and c.beats(rivals)]
    return sorted(found, key=lambda c: -c.means["absolute"].value)


def part(found: Found) -> Part:
    pairs = settings(found)
    made = {pair: candidates(found, *pair) for pair in pairs}
    plots = tuple(plot(pair, made[pair]) for pair in pairs)
    return Part(tuple(c for p in (plots[:1] or (table(made),)) for c in shown(p, *claims(made))), (table(made),), plots)


def claims(made: dict[tuple[str, str], list[Candidate]]) -> tuple[Claim, ...]:
    won = {pair: winners(found) for pair, found in made.items()}
    data = {task for (task, _), found in won.items() if found}
    of = lambda pair, key: next((c for c in made[pair] if c.key == key), None)
    told = []
    for pair, found in won.items():
        plain = of(pair, "none")
        best = found[0] if found else None
        where = f"{TASKS[pair[0]].words}, {KINDS[pair[1]]}"
        if best is None or plain is None:
            told.append(f"{where}: none")
            continue
        told.append(
            f"{where}: {best.words} {best.means['absolute']} against {plain.means['absolute']} (relative {best.means['relative']} against {plain.means['relative']}), "
            f"clean {best.means['clean']} against {plain.means['clean']}"
        )
    tasks_run = {task for task, _ in made}
    needed = min(2, len(tasks_run))
    spectral = ("pseudospectral_radius", "kreiss", "distance_to_instability", "transient", "commutator")
    ahead = {p: [c.words for c in found if c.key in spectral] for p, found in won.items()}
    measured = [p for p in made if any(c.key in spectral for c in made[p])]
    ahead_at = [p for p in measured if ahead[p]]
    return (
        Claim(
            "A network trained for it beats plain training and both plain normalisations on worst-case accuracy under weight change, at equal clean accuracy", f"{PAPER} leaves it open; ours",
            "ours" if len(data) >= needed else "not reproduced",
            f"on {len(data)} of {len(tasks_run)} data sets, intervals apart for absolute ({SIZE:g}) and relative ({SHARE:.0%}) changes and at most one point less accurate. Best of each: " + "; ".join(told),
        ),
        Claim(
            "A penalty on the recurrent matrices alone, blind to the data, makes a network robust to changes of them", "ours",
            "ours" if ahead_at else "not reproduced",
            "beating plain training and both normalisations at equal clean accuracy: "
            + ("; ".join(f"{TASKS[p[0]].words}, {KINDS[p[1]]}: {', '.join(ahead[p])}" for p in ahead_at) or "none")
            + ". Worst-case accuracy, absolute, against plain training: "
            + "; ".join(f"{c.words} {c.means['absolute']} ({TASKS[p[0]].words}, {KINDS[p[1]]})" for p in measured[:1] for c in made[p] if c.key in ("none", *spectral)),
        ),
        Claim(
            "Accuracy, pseudospectral radius and worst-case accuracy are different goals: no way of training is best at all of them", f"{PAPER}: optimising all together is its open problem",
            "reproduced" if all(len(front(c)) > 1 for c in made.values()) else "not reproduced",
            "not beaten in all five means at once: " + "; ".join(f"{TASKS[p[0]].words}, {KINDS[p[1]]}: {len(front(c))} of {len(c)}" for p, c in made.items()),
        ),
    )  # fmt: skip


def table(made: dict[tuple[str, str], list[Candidate]]) -> Table:
    heads = ("clean", f"pseudospectral radius, {EPSILON:g}", f"worst found, {SIZE:g}", f"worst found, {SHARE:.0%}", "inputs attacked")  # fmt: skip
    rows = []
    for (task, kind), found in made.items():
        best, won = front(found), winners(found)
        for c in sorted(found, key=lambda c: -c.means["absolute"].value):
            marks = [word for word, there in (("front", c in best), ("beats plain and normalised", c in won)) if there]
            rows.append((TASKS[task].words, KINDS[kind], c.words, *(str(c.means[a]) for a in AXES), ", ".join(marks)))
    return Table(
        "Ways of training", ("data", "network", "training", *heads, ""), tuple(rows),
        "Means of the runs with Student's 95 % intervals, best worst-case accuracy first. Residual cells (antisymmetric, Lipschitz) multiply their matrix by a step, so that an absolute change of it "
        "is a smaller one of what they compute; their pseudospectral radius is that of the linear part of a step. A front of means says nothing about differences inside the intervals.",
    )  # fmt: skip


def plot(pair: tuple[str, str], made: Sequence[Candidate]) -> Plot:
    groups = {"plain": ("none",), "normalised": SCALINGS, "adversarial or noisy weights": ("adversarial weights", "transient and adversarial weights", "awp", "weight noise", "joint")}  # fmt: skip
    grouped = {key for keys in groups.values() for key in keys}
    groups["other trainings"] = tuple(c.key for c in made if c.key not in grouped)
    curves = []
    for words, keys in groups.items():
        mine = [c for c in made if c.key in keys]
        worst = [c.means["absolute"] for c in mine]
        curves.append(Curve(words, tuple(c.means["clean"].value for c in mine), tuple(m.value for m in worst), tuple(m.low for m in worst), tuple(m.high for m in worst), "points"))  # fmt: skip
    return Plot(
        f"Accuracy and worst-case accuracy, {TASKS[pair[0]].words}, {KINDS[pair[1]]}", "clean accuracy", f"accuracy after the worst change found, {SIZE:g}",
        tuple(c for c in curves if c.x), "Up and to the right is better. The table names every point and adds the other criteria.",
    )  # fmt: skip
