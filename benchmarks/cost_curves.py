"""make bench-cost-curves: what a pass buys, and what a pass costs.

Curves: excess over the best distance of any peer, and over the best of all (drawn), against passes an example, for the three efforts, for single
attacks at several budgets and for every peer (its points are read from build/bench/peers, where make bench-worst-case keeps them); one table, one
JSON file and one drawing per network, docs/images/cost_curve_NETWORK.svg, a panel for each norm.
Scaling: processor time of a fixed-budget l-inf attack of 100 steps and of one crown evaluation on untrained ReLU networks, over width, depth, input
size and batch, per example and as a ratio to the bare passes that they count, in the same run.

    python benchmarks/cost_curves.py [--networks mlp cnn_adv] [--norms l2] [--count 20] [--curves | --scaling | --draw]
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from html import escape
from math import inf
from pathlib import Path

import torch
from floor import passes
from torch import Tensor, nn
from worst_case import BUILD, EFFORTS, NORMS, examples, excess

import brittle as bt
from brittle import meter
from brittle.attacks.apgd import apgd
from brittle.bounds.crown import crown
from brittle.discovery import method
from brittle.plots import Axis, Mark, figure, line, scatter
from brittle.plots.marks import pixel

NETWORKS = ("digits", "mlp", "cnn", "cnn_adv")
PEERED = 200  # examples that the stored points of peers speak of
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
Row = dict[str, str | float]

# name -> its budgets, small to large
BUDGETS: dict[str, list[dict]] = {
    "hlrf": [{"stages": ((3, 2),)}, {"stages": ((9, 2),)}, {}, {"stages": ((9, 4), (6, 8), (3, 20))}],
    "fmn": [{"steps": 15}, {"steps": 60}, {"steps": 240}],
    "proximal": [{"steps": 30}, {"steps": 116}, {"steps": 464}],
    "multistart": [{"restarts": 0, "steps": 40}, {"restarts": 2, "steps": 80}, {}, {"restarts": 8, "steps": 300}],
}
CURVES = ("brittle", *BUDGETS)  # in the order of their colours


# ---- what a pass buys -----------------------------------------------------------------------------------------------------


def stored(network: str, norm: str, count: int) -> dict[str, tuple[float, Tensor]]:
    """Passes and distances of the first ``count`` examples for every peer that has been measured."""
    found = {}
    for kept in sorted((BUILD / "peers" / f"{network}-{norm}-{PEERED}").glob("*.json")):
        peer = json.loads(kept.read_text())
        distance = torch.tensor([inf if v is None else v for v in peer["distance"][:count]]).double()
        found[kept.stem.replace("_", " ", 1)] = (peer["cost"]["forward"] + peer["cost"]["backward"], distance)
    return found


def attacked(problem: bt.Problem, work: Callable[[], Tensor]) -> tuple[float, Tensor, float]:
    """Passes an example, distances, and processor milliseconds an example."""
    started = time.process_time()
    with meter.measure() as cost:
        distance = work()
    took = 1000 * (time.process_time() - started) / len(problem)
    return (cost.forward + cost.backward) / len(problem), distance, took


def ours(problem: bt.Problem, p: float) -> list[tuple[str, str, float, Tensor, float]]:
    """(curve, what, passes, distances, ms) of the efforts and of single attacks at their budgets."""
    upper = lambda effort: bt.radius(problem, ends="upper", effort=effort).upper
    found = [("brittle", effort, *attacked(problem, partial(upper, effort))) for effort in EFFORTS]
    for name, budgets in BUDGETS.items():
        attack = method("attacks", name)
        if p not in attack.about.norms:
            continue
        for options in budgets:
            run = lambda options=options, attack=attack: _distance(attack(problem, **options))
            said = ", ".join(f"{k}={v}" for k, v in options.items()) or "as it is"
            found.append((name, said, *attacked(problem, run)))
    return found


def _distance(witness: bt.Witness) -> Tensor:
    return torch.where(witness.found, witness.size, inf)


def curve(network: str, norm: str, problem: bt.Problem) -> list[Row]:
    others = stored(network, norm, len(problem))
    mine = ours(problem, NORMS[norm])
    everyone = [d for _, d in others.values()] + [d for _, _, _, d, _ in mine]
    best, known = torch.stack(everyone[: len(others)] or everyone).amin(0), torch.stack(everyone).amin(0)
    told = lambda d: {"excess": float(excess(d, best).mean()), "gap": float(excess(d, known).mean())}
    rows: list[Row] = [{"curve": c, "what": w, "passes": n, **told(d), "ms": ms} for c, w, n, d, ms in mine]
    rows += [{"curve": "peer", "what": name, "passes": n, **told(d)} for name, (n, d) in others.items()]
    print(f"\n### {network}, {norm}, {len(problem)} examples\n")
    print("| attack | budget | passes | over the best peer | over the best known | ms |\n|---|---|---|---|---|---|")
    for row in rows:
        spent = f"{row['ms']:.1f}" if "ms" in row else ""
        distances = f"{row['excess']:.2%} | {row['gap']:.2%}"
        print(f"| {row['curve']} | {row['what']} | {row['passes']:.0f} | {distances} | {spent} |", flush=True)
    return rows


# ---- the drawing ----------------------------------------------------------------------------------------------------------

LEAST, MOST = 1e-4, 1.0  # excess at the lower and the upper edge; less lies on the lower one
WIDTH, HEIGHT, TOP = 470, 330, 54
STYLE = """
.sheet { fill: #fff } .plot { font: 12px system-ui, "Segoe UI", Roboto, sans-serif } .plot text { fill: #5d636b }
.plot .label { fill: #1d1f22 } .plot .end { text-anchor: end } .plot .middle { text-anchor: middle }
.plot .note { fill: #767c85; font-size: 9.5px } .plot .grid { stroke: #ecebe7 } .plot .axis { stroke: #767c85 }
.plot .line { fill: none; stroke: var(--c); stroke-width: 1.8 } .plot .dot { fill: var(--c) } .key { font: 13px system-ui, sans-serif; fill: #1d1f22 }
.c0 { --c: #0072b2 } .c1 { --c: #d55e00 } .c2 { --c: #009e73 } .c3 { --c: #b5589a } .c4 { --c: #c58a00 } .other { --c: #9aa0a8 }
"""


def notes(xs: list[float], ys: list[float], texts: list[str]) -> Mark:
    """Words beside points."""

    def draw(x: Callable[[float], float], y: Callable[[float], float]) -> str:
        return "".join(
            f'<text class="note" x="{pixel(x(a) + 5)}" y="{pixel(y(b) - 4)}">{escape(t)}</text>'
            for a, b, t in zip(xs, ys, texts, strict=True)
        )

    return draw


def panel(norm: str, rows: list[Row]) -> str:
    at = lambda row: (float(row["passes"]), min(max(float(row["gap"]), LEAST), MOST))
    marks: list[Mark] = []
    peers = [row for row in rows if row["curve"] == "peer"]
    short = [str(row["what"]).replace("adv-lib ", "").replace("foolbox", "fb") for row in peers]
    xs, ys = [at(r)[0] for r in peers], [at(r)[1] for r in peers]
    marks += [scatter(xs, ys, "other", shape="square"), notes(xs, ys, short)] if peers else []
    for colour, name in reversed(list(enumerate(CURVES))):
        points = sorted(at(row) for row in rows if row["curve"] == name)
        if points:
            xs, ys = [a for a, _ in points], [b for _, b in points]
            marks += [line(xs, ys, f"c{colour}"), scatter(xs, ys, f"c{colour}", size=4 if colour == 0 else 3)]
    x = Axis("forward + backward passes an example", 10, 30_000, log=True)
    ticks = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    y = Axis(
        f"{norm}: excess over the best known", LEAST, 2 * MOST, True, ticks, ("≤ .01 %", ".1 %", "1 %", "10 %", "100 %")
    )
    return str(figure(marks, x, y, label=f"{norm}: excess against passes", width=WIDTH, height=HEIGHT))


def drawing(network: str, panels: dict[str, list[Row]]) -> str:
    """A sheet of its own: two panels a line under one key, colours included."""
    wide, lines = 2 * WIDTH, -(-len(panels) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {TOP + lines * HEIGHT}"><style>{STYLE}</style>'
    ]
    parts.append(f'<rect class="sheet" width="{wide}" height="{TOP + lines * HEIGHT}"/><g class="plot">')
    parts.append(f'<text class="key" x="10" y="22">{escape(network)}</text>')
    for i, name in enumerate((*CURVES, "peers")):
        kind, left = "other" if name == "peers" else f"c{i}", 110 + 130 * i
        words = "quick, standard, thorough" if name == "brittle" else name
        left += 90 if i else 0
        parts.append(
            f'<circle class="dot {kind}" cx="{left}" cy="18" r="4"/><text class="key" x="{left + 9}" y="22">{words}</text>'
        )
    for i, (norm, rows) in enumerate(panels.items()):
        place = f'<svg x="{i % 2 * WIDTH}" y="{TOP + i // 2 * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(panel(norm, rows).replace("<svg ", place, 1))
    return "".join(parts) + "</g></svg>\n"


def draw(network: str, panels: dict[str, list[Row]]) -> None:
    (IMAGES / f"cost_curve_{network}.svg").write_text(drawing(network, panels))


# ---- what a pass costs ----------------------------------------------------------------------------------------------------

BASE = {"width": 200, "depth": 2, "input": 784, "batch": 20}
SWEEPS = {
    "width": (50, 100, 200, 400, 800),
    "depth": (1, 2, 4, 6),
    "input": (64, 256, 784, 3072),
    "batch": (1, 4, 16, 64, 256),
}
RADIUS = (
    0.002  # most units of untrained networks keep their side: the part of crown that does not depend on the weights
)


def untrained(width: int, depth: int, size: int) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [size, *[width] * depth]
    layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10)).eval()


def scaled(key: str, value: int) -> tuple[float, float, float, float]:
    """(attack ms an example, over its bare passes, crown ms an example, over its bare passes)."""
    at = BASE | {key: value}
    module = untrained(at["width"], at["depth"], at["input"])
    x = torch.rand(at["batch"], at["input"], generator=torch.Generator().manual_seed(0))
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(inf, RADIUS, low=0, high=1))
    crown(problem.take(torch.arange(1)))  # the export of the graph, once for a model
    return *_timed(problem, partial(apgd, problem, steps=100, restarts=1)), *_timed(problem, partial(crown, problem))


def _timed(problem: bt.Problem, work: Callable[[], object]) -> tuple[float, float]:
    best = inf
    for _ in range(2):
        started = time.process_time()
        with meter.measure() as cost:
            work()
        best = min(best, time.process_time() - started)
    count = len(problem)
    bare = passes(problem.network.quiet, problem.x, cost.forward / count, cost.backward / count)  # type: ignore[arg-type]
    return 1000 * best / count, best / bare


def scaling() -> list[Row]:
    rows: list[Row] = []
    print(f"\n### Scaling; the rest as {BASE}, l-inf {RADIUS}\n")
    print(
        "| | | attack, ms an example | over bare passes | crown, ms an example | over bare passes |\n|---|---|---|---|---|---|"
    )
    for key, values in SWEEPS.items():
        for value in values:
            attack, ratio, bound, over = scaled(key, value)
            rows.append(
                {
                    "over": key,
                    "value": value,
                    "attack": attack,
                    "attack_ratio": ratio,
                    "crown": bound,
                    "crown_ratio": over,
                }
            )
            print(f"| {key} | {value} | {attack:.2f} | {ratio:.2f} | {bound:.2f} | {over:.2f} |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Excess against passes, and processor time against size.")
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn_adv"], choices=NETWORKS)
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--curves", action="store_true", help="the curves alone")
    parser.add_argument("--scaling", action="store_true", help="the scaling alone")
    parser.add_argument("--draw", action="store_true", help="draw again what was measured last, and nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kept = BUILD / "cost_curves"
    kept.mkdir(parents=True, exist_ok=True)
    if asked.draw:
        for network in asked.networks:
            draw(network, json.loads((kept / f"{network}.json").read_text()))
        return
    if not asked.scaling:
        found = examples(list(NETWORKS), PEERED)  # of all networks: which examples are asked depends on every one
        for network in asked.networks:
            module, x, labels = (part if i == 0 else part[: asked.count] for i, part in enumerate(found[network]))  # type: ignore[index]
            problem = bt.Problem(module, x, labels, bt.Ball(2, 1.0, low=0, high=1))  # type: ignore[arg-type]
            balls = {norm: problem.within(bt.Ball(NORMS[norm], 1.0, low=0, high=1)) for norm in asked.norms}
            panels: dict[str, list[Row]] = {}
            for norm, part in balls.items():  # kept after each: a run that is stopped leaves what it has
                panels[norm] = curve(network, norm, part)
                (kept / f"{network}.json").write_text(json.dumps(panels, indent=1))
                draw(network, panels)
    if not asked.curves:
        (kept / "scaling.json").write_text(json.dumps(scaling(), indent=1))


if __name__ == "__main__":
    main()
