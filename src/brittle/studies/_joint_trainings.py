"""The comparison of the paper: networks trained against inputs, weights, both, with norm penalties or with bounds, under single and joint changes."""

from collections.abc import Callable, Mapping, Sequence

from brittle.studies._joint_nets import RECIPES, TASKS, net
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table

PAPER = "arXiv 2102.11935"
RUNS = 5
ASKED = {  # key of a measurement -> words
    "x": "input",
    "w": "weights",
    "xw": "both",
    "half": "both, half radii",
}
WHERE = {"digits": "digits", "mnist": "MNIST"}
SLOW = ("fold",)
LEFT_OUT = (("mnist", "fold"),)
BOUNDED = ("ibp", "fold")  # recipes with a joint certificate in the loss
BALLS = {"w": "absolute", "rms w": "relative to each layer's rms", "element": "relative to each weight"}
Runs = Callable[[str], list[dict]]


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Every recipe, five runs: on digits, with ``full`` on MNIST too."""
    tasks, recipes = ("digits", "mnist") if full else ("digits",), [n for n in RECIPES if full or n not in SLOW]
    wanted = [(task, recipe) for task in tasks for recipe in recipes if (task, recipe) not in LEFT_OUT]
    return {f"{task}-{recipe}-{run}": (net, task, recipe, run, seed) for run in range(RUNS) for task, recipe in wanted}


def part(found: Mapping[str, dict]) -> Part:
    """Claims, one table and the pictures for every data set that was run."""
    parts = [
        _part(task, lambda recipe, task=task: _runs(found, task, recipe))
        for task in TASKS
        if f"{task}-standard-0" in found
    ]
    join = lambda name: tuple(v for p in parts for v in getattr(p, name))
    return Part(join("claims"), join("tables"), join("plots"))


def _runs(found: Mapping[str, dict], task: str, recipe: str) -> list[dict]:
    return [found[f"{task}-{recipe}-{run}"] for run in range(RUNS) if f"{task}-{recipe}-{run}" in found]


def _part(task: str, runs: Runs) -> Part:
    figures = training_plot(task, runs), difference_plot(task, runs), ball_plot(task, runs)
    left, single, more, versa, regular, norms, best, certified = claims(task, runs)
    linked = (
        *shown(figures[0], left, single),
        *shown(figures[2], more),
        *shown(figures[1], versa, regular),
        *shown(figures[2], norms),
        *shown(figures[0], best, certified),
    )
    return Part(linked, (table(task, runs), relative_table(task, runs)), figures)


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims(task: str, runs: Runs) -> tuple[Claim, ...]:
    here = WHERE[task]
    drop = lambda recipe, key: median_of([r["clean"] - r[key][1] for r in runs(recipe)])
    better = lambda a, b, key: paired(runs(a), runs(b), key)
    middle = lambda recipe, key, end=1: median_of([r[key][end] for r in runs(recipe)])
    more = {word: better("input", "standard", key) for key, word in BALLS.items()}
    worse = {word: m.high < 0 for word, m in more.items()}
    regular = {word: better("regularised", "standard", key) for key, word in ASKED.items()}
    norms = {word: better("norms", "standard", key) for key, word in BALLS.items()}
    joint = {name: middle(name, "xw") for name in RECIPES if runs(name)}
    others = {name: m for name, m in joint.items() if name not in BOUNDED}
    best, rival = (
        max((n for n in BOUNDED if n in joint), key=lambda n: joint[n].value),
        max(others, key=lambda n: others[n].value),
    )
    return (
        Claim(
            f"Networks trained against input perturbations remain vulnerable to weight perturbations ({here})", f"{PAPER}, abstract",
            verdict(drop("input", "w").low > 0.1 and better("weight", "input", "w").low > 0),
            f"attacked accuracy when the weights alone move: input adversarial {middle('input', 'w')}, standard {middle('standard', 'w')}, "
            f"weight adversarial {middle('weight', 'w')}; clean {median_of([r['clean'] for r in runs('input')])}",
        ),
        Claim(
            f"Under joint perturbation every network trained against one side only fails ({here})", f"{PAPER}, the reason for its training loss",
            verdict(better("joint", "input", "xw").low > 0 and better("joint", "weight", "xw").low > 0, "only when" if better("joint", "input", "xw").low > 0 else "not reproduced"),
            "attacked accuracy when both move: " + ", ".join(f"{RECIPES[n].words} {joint[n]}" for n in ("standard", "input", "weight", "joint")),
        ),
        Claim(
            f"Input adversarial training makes the weights even more vulnerable than standard training does ({here})", f"{PAPER}, experiments",
            verdict(all(worse.values()), "only when" if any(worse.values()) else "not reproduced"),
            "attacked accuracy under weight perturbation, input adversarial minus standard training, paired by seed: " + _list(more),
        ),
        Claim(
            f"And vice versa: networks trained against weight perturbations remain vulnerable to input perturbations ({here})", f"{PAPER}, experiments",
            verdict(drop("weight", "x").low > 0.05 and better("input", "weight", "x").low > 0),
            f"attacked accuracy when the input alone moves: weight adversarial {middle('weight', 'x')}, input adversarial {middle('input', 'x')}, standard {middle('standard', 'x')}; "
            f"weight adversarial minus standard {better('weight', 'standard', 'x')}",
        ),
        Claim(
            f"The regulariser derived from the margin bound protects against both ({here})", f"{PAPER}, training loss",
            verdict(all(m.low > 0 for m in regular.values()), "only when" if any(m.low > 0 for m in regular.values()) else "not reproduced"),
            "attacked accuracy, regularised minus standard, paired by seed: " + _list(regular) + f"; clean {median_of([r['clean'] for r in runs('regularised')])}",
        ),
        Claim(
            f"Penalising the two induced norms alone protects the weights ({here})", "the norm part of the paper's regulariser, as recalled",
            verdict(all(m.low > 0 for m in norms.values()), "only when" if any(m.low > 0 for m in norms.values()) else "not reproduced"),
            "attacked accuracy under weight perturbation, norm penalty minus standard, paired by seed: " + _list(norms) + ". An absolute ball grows relatively when norms shrink",
        ),
        Claim(
            f"A joint bound inside the loss beats joint adversarial training under joint attack ({here})", "ours",
            "ours" if joint[best].low > joint[rival].high else "not reproduced",
            f"attacked accuracy when both move: {RECIPES[best].words} {joint[best]}, next {RECIPES[rival].words} {joint[rival]}; "
            f"clean {median_of([r['clean'] for r in runs(best)])} and {median_of([r['clean'] for r in runs(rival)])}",
        ),
        Claim(
            f"Only networks trained against both sides keep a certificate under joint perturbation ({here})", "ours",
            "ours" if middle(best, "xw", 0).low > 0.3 and middle("input", "xw", 0).high < 0.1 else "not reproduced",
            "certified accuracy when both move: " + ", ".join(f"{RECIPES[n].words} {middle(n, 'xw', 0)}" for n in joint),
        ),
    )  # fmt: skip


def paired(a: Sequence[Mapping], b: Sequence[Mapping], key: str, end: int = 1) -> Middle:
    """The difference of two trainings under one question, run by run: same initialisation, data and batches."""
    return median_of([p[key][end] - q[key][end] for p, q in zip(a, b, strict=True)])


def _list(found: Mapping[str, Middle]) -> str:
    return ", ".join(f"{word} {m}" for word, m in found.items())


# ---- tables and plots ------------------------------------------------------------------------------------------------


def table(task: str, runs: Runs) -> Table:
    shown_keys = ("x", "w", "xw", "half")
    columns = ("training", "clean", *(f"{ASKED[k]}, attacked" for k in shown_keys), "both, certified", "both, half radii, certified",
               "one shared change: weights", "one shared change: both", "one shared change: both, half radii")  # fmt: skip
    middle = lambda name, key, end=1: str(median_of([r[key][end] for r in runs(name)]))
    rows = [
        (RECIPES[n].words, str(median_of([r["clean"] for r in runs(n)])), *(middle(n, k) for k in shown_keys), middle(n, "xw", 0),
         middle(n, "half", 0), *(middle(n, f"shared {k}") for k in ("w", "xw", "half")))
        for n in RECIPES if runs(n)
    ]  # fmt: skip
    t = TASKS[task]
    note = (
        f"{WHERE[task]}: accuracy on {t.examples} test examples under l-inf changes of the input by {t.input:g} and of every weight by {t.weight:g}; "
        f"medians of {RUNS} runs with the smallest and largest (94 % interval of the median). Where a column does not say shared, every example "
        "has its own change of the weights, which is what certificates speak of."
    )
    return Table(f"Trainings under single and joint perturbation, {WHERE[task]}", columns, tuple(rows), note)


def relative_table(task: str, runs: Runs) -> Table:
    t = TASKS[task]
    words = {"rms": f"input {t.rms[0]:g}, weights {t.rms[1]:g} of the layer's rms", "rms w": f"weights {t.rms[1]:g} of the layer's rms",
             "element": f"weights {t.element[1]:g} of each weight"}  # fmt: skip
    columns = (
        "training",
        *(f"{w}, {end}" for w in words.values() for end in ("certified", "attacked")),
        "rms of the layers",
        "largest row sums",
        "right after 10 chosen bit flips",
    )
    ends = lambda n, key: (str(median_of([r[key][end] for r in runs(n)])) for end in (0, 1))
    sizes = lambda n, key: ", ".join(
        f"{median_of([r[key][k] for r in runs(n)]).value:.3g}" for k in range(len(runs(n)[0][key]))
    )
    flips = lambda n: str(median_of([r["faults"]["worst"][-1] for r in runs(n)]))
    rows = [
        (RECIPES[n].words, *(v for key in words for v in ends(n, key)), sizes(n, "rms of layers"), sizes(n, "row sums"), flips(n))
        for n in RECIPES if runs(n)
    ]  # fmt: skip
    note = "Balls that no rescaling of the layers can game. Training against an absolute ball inflates the weights, norm penalties shrink them."
    return Table(f"Trainings in relative balls, {WHERE[task]}", columns, tuple(rows), note)


def training_plot(task: str, runs: Runs) -> Plot:
    names = [n for n in RECIPES if runs(n)]
    at = lambda shift: [k + shift for k in range(1, len(names) + 1)]
    curves = [
        measured(word, at(0.12 * (j - 1.5)), [median_of([r[key][1] for r in runs(n)]) for n in names])
        for j, (key, word) in enumerate(ASKED.items())
    ]
    certified = measured("both, certified", at(0.3), [median_of([r["xw"][0] for r in runs(n)]) for n in names])
    return Plot(
        f"Attacked accuracy by training and by what moves, {WHERE[task]}", _legend(names), "accuracy", (*curves, certified),
        "Each example its own change. Bars reach from the smallest to the largest of five runs.",
    )  # fmt: skip


def difference_plot(task: str, runs: Runs) -> Plot:
    names = [n for n in RECIPES if n != "standard" and runs(n)]
    curves = [
        measured(
            word,
            [k + 0.12 * (j - 1.5) for k in range(1, len(names) + 1)],
            [paired(runs(n), runs("standard"), key) for n in names],
        )
        for j, (key, word) in enumerate(ASKED.items())
    ]
    return Plot(
        f"What each training gains over the standard one, {WHERE[task]}", _legend(names), "attacked accuracy, minus standard training",
        tuple(curves), "Differences paired by seed. Below 0 a training has made things worse.", rules=((0.0, "standard training"),),
    )  # fmt: skip


def ball_plot(task: str, runs: Runs) -> Plot:
    names = [n for n in ("input", "weight", "norms") if runs(n)]
    curves = [
        measured(
            RECIPES[n].words,
            [j + 1 + 0.12 * (k - 1) for j in range(len(BALLS))],
            [paired(runs(n), runs("standard"), key) for key in BALLS],
        )
        for k, n in enumerate(names)
    ]
    return Plot(
        f"More vulnerable weights? Three balls of weights, {WHERE[task]}", "ball: " + ", ".join(f"{j} {w}" for j, w in enumerate(BALLS.values(), 1)),
        "attacked accuracy under weight perturbation, minus standard training", tuple(curves),
        "The sign can depend on how a change of weights is measured; differences paired by seed.", rules=((0.0, "standard training"),),
    )  # fmt: skip


def _legend(names: Sequence[str]) -> str:
    return "training: " + ", ".join(f"{k} {RECIPES[n].words}" for k, n in enumerate(names, 1))
