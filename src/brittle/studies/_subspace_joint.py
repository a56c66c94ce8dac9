"""Inputs and weights perturbed together: what surgery off the data does for the certificate."""

from collections.abc import Callable, Mapping
from math import inf

import torch
from torch import nn

from brittle.randomness import fold
from brittle.studies import _subspace_digits as digits
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part
from brittle.studies._study import Claim, Table

SIZE, HIDDEN, SCALES, RUNS, TESTED = 16, 32, (1.0, 2.45, 5.0), 5, 80
INPUT, WEIGHT = 0.02, 0.002  # radii in l-inf, of the input and of every weight matrix
NAMES = ("clean", "input", "weights", "joint", "attacked")


def joint(scale: float, run: int, seed: int) -> dict:
    """A 256-32-32-10 network on upsampled digits, first layer drawn at ``scale`` times torch's default: certified accuracy before and after surgery."""
    from brittle.cures.surgery import surgery

    x, labels, test, truth = digits._data(SIZE, False, seed)
    module = _network(x.shape[1], scale, fold(seed, "joint", run))
    done = digits._train(module, x, labels, run + seed)
    cut = surgery(done, digits._plane(SIZE, False, seed))
    found: dict[str, float] = {}
    for name, network in (("before", done), ("after", cut)):
        answers = _accuracies(network, test[:TESTED], truth[:TESTED], seed)
        rows = float(network[0].weight.detach().abs().sum(1).max())  # type: ignore[index,union-attr,operator]
        found |= {f"{name}_{k}": v for k, v in answers.items()} | {f"{name}_rows": rows}
    return {**found, "gain": found["after_joint"] - found["before_joint"]}


def _network(features: int, scale: float, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
        )
    with torch.no_grad():
        module[0].weight.mul_(scale)  # type: ignore[operator,union-attr]
    return module


def _accuracies(network: nn.Module, x, labels, seed: int) -> dict[str, float]:
    """Clean accuracy, certified accuracy under changes of the input, of the weights and of both, and attacked accuracy under both."""
    from brittle.problem import Problem
    from brittle.questions.margin import margin
    from brittle.region import Ball

    inputs = {"x": Ball(p=inf, radius=INPUT, low=0.0, high=1.0)}
    weights = {f"{k}.weight": Ball(p=inf, radius=WEIGHT) for k in (0, 2, 4)}
    share = lambda values: float((values > 0).double().mean())
    found = {"clean": share(Problem(network, x, labels).margin())}
    for name, region in (("input", inputs), ("weights", weights), ("joint", {**inputs, **weights})):
        ends = "both" if name == "joint" else "lower"
        answer = margin(Problem(network, x, labels, region), effort="quick", ends=ends, seed=seed)
        found[name] = share(answer.lower)
        if name == "joint":
            found["attacked"] = share(answer.upper)
    return found


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Five runs at three initialisations."""
    return {f"joint-scale{s:g}-{run}": (joint, s, run, seed) for run in range(RUNS) for s in SCALES}


def part(found: Mapping[str, dict]) -> Part:
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"joint-{word}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    at = lambda name: {s: middle(f"scale{s:g}", name) for s in SCALES}
    before, after, gain, most = at("before_joint"), at("after_joint"), at("gain"), SCALES[-1]
    return (
        Claim(
            "Surgery raises the certified accuracy under joint changes of inputs and weights, more where the initialisation was larger", "ours",
            "ours" if gain[most].low > 0 and gain[most].value > gain[SCALES[0]].value else "not reproduced",
            f"inputs within {INPUT:g}, weights within {WEIGHT:g} (l-inf), certified before and after: "
            + "; ".join(f"init x {s:g}: {before[s].value:.3f} and {after[s].value:.3f} (run by run {gain[s]})" for s in SCALES)
            + f"; attacked at init x {most:g}: {at('before_attacked')[most].value:.2f} and {at('after_attacked')[most].value:.2f}",
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    rows = tuple(
        (f"{s:g}", w, *(str(middle(f"scale{s:g}", f"{w}_{n}")) for n in (*NAMES, "rows")))
        for s in SCALES
        for w in ("before", "after")
    )
    columns = (
        "times torch's default",
        "surgery",
        "clean",
        "certified, input",
        "certified, weights",
        "certified, both",
        "attacked, both",
        "largest l1 row of the first layer",
    )
    note = f"256-32-32-10 on digits of {SIZE} x {SIZE} pixels, {TESTED} test digits, medians of {RUNS} runs [94 % interval]. Input l-inf {INPUT:g} in [0, 1], weights l-inf {WEIGHT:g}."
    return (Table("Certified accuracy under joint changes, before and after surgery", columns, rows, note),)
