"""What undoes compression: the penalties of the library on the digits network, beside the cheap baselines, all attacked afterwards."""

from collections.abc import Mapping

from brittle.studies._cures import CURES, EPOCHS, cure
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part, shown
from brittle.studies._study import Claim, Curve, Plot, Table

SEEDS, EXAMPLES = 5, 100
DEFAULT = (
    "plain", "early_stopping", "noise", "jacobian", "adversarial", "centroid_alignment", "path_alignment", "path_ratio", "predicted_radius",
)  # fmt: skip


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Five trainings by each cure; every cure with --full."""
    return {
        f"cure-{name}-{run}": (cure, name, seed + run, CURES[name].strength, EPOCHS, EXAMPLES, "standard")
        for name in (CURES if full else DEFAULT)
        for run in range(SEEDS)
    }


def part(found: Mapping[str, dict]) -> Part:
    """Radius before and after, clean accuracy, and which kind of cure wins."""
    names = list(dict.fromkeys(k.split("-")[1] for k in found if k.startswith("cure-")))
    runs = {name: [found[f"cure-{name}-{run}"] for run in range(SEEDS)] for name in names}
    gains = {name: gain(rows, runs["plain"]) for name, rows in runs.items() if name != "plain"}
    figure = plot(runs)
    return Part(shown(figure, claim(gains)), (table(runs, gains),), (figure,))


def gain(rows: list[dict], plain: list[dict]) -> Middle:
    """Median over seeds of the ratio of median radii, cured over plain, from the same initial weights."""
    return median_of([a["median"] / b["median"] for a, b in zip(rows, plain, strict=True)])


def best(gains: Mapping[str, Middle], kind: str) -> tuple[str, Middle]:
    return max(((n, g) for n, g in gains.items() if CURES[n].kind == kind), key=lambda item: item[1].value)


def claim(gains: Mapping[str, Middle]) -> Claim:
    """A penalty against compression must beat every cheap baseline to count as a cure of its own."""
    (name, ours), (cheap, theirs) = best(gains, "compression"), best(gains, "baseline")
    wins = ours.low > theirs.high
    return Claim(
        "Training against compression makes a network more robust than the cheap cures do",
        "suggested in arXiv 2406.16200; the penalties are ours",
        "ours" if wins else "only when" if ours.low > 1 else "not reproduced",
        f"best penalty against compression: {name}, radius × {ours}; best baseline: {cheap}, × {theirs}. "
        + ("It beats them" if wins else "It helps, but the baseline is as good or better" if ours.low > 1 else "It does not help")
        + f"; medians over {SEEDS} seeds, at the largest strengths that cost at most a point of held-out accuracy",
    )  # fmt: skip


def table(runs: Mapping[str, list[dict]], gains: Mapping[str, Middle]) -> Table:
    rows = []
    for name, found in runs.items():
        value = CURES[name].strength
        rows.append((
            name, CURES[name].kind, "–" if value is None else f"{CURES[name].vary} {value:g}", f"{median_of([r['accuracy'] for r in found])}",
            str(median_of([r["median"] for r in found])), "1" if name == "plain" else str(gains[name]),
            median_of([r["forward"] + r["backward"] for r in found]).value / median_of([r["forward"] + r["backward"] for r in runs["plain"]]).value,
        ))  # fmt: skip
    return Table(
        "Cures on the digits network (64-100-100-10)",
        ("cure", "kind", "strength", "clean accuracy", "median l2 radius", "radius, cured / plain", "cost of training, in plain ones"),
        tuple(rows),
        f"Medians over {SEEDS} seeds [smallest, largest: 94 %]; radii by the standard attacks, which know the cured network, on {EXAMPLES} test digits. "
        "Strengths were chosen on held-out training digits with other seeds: the largest that costs at most one point of accuracy there.",
    )  # fmt: skip


def plot(runs: Mapping[str, list[dict]]) -> Plot:
    kinds = {kind: [n for n in runs if CURES[n].kind == kind] for kind in ("plain", "baseline", "compression")}
    words = {"plain": "plain training", "baseline": "cheap baselines", "compression": "penalties against compression"}
    at = {name: float(k) for k, name in enumerate(runs, 1)}

    def points(names: list[str]) -> tuple[tuple[float, ...], ...]:
        middles = [median_of([r["median"] for r in runs[n]]) for n in names]
        return tuple(at[n] for n in names), *(tuple(m[k] for m in middles) for k in range(3))

    return Plot(
        "Radius after each cure",
        "cure: " + ", ".join(f"{int(k)} {name.replace('_', ' ')}" for name, k in at.items()),
        "median l2 radius",
        tuple(Curve(words[kind], *points(names), style="points") for kind, names in kinds.items() if names),
        f"Medians over {SEEDS} seeds with the smallest and largest.",
    )
