"""What an absolute weight ball means depends on how layers are scaled; relative balls do not."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from brittle.network import copied
from brittle.problem import Problem
from brittle.studies._joint_nets import RECIPES, TASKS, asked, data, region, trained
from brittle.studies._medians import median_of
from brittle.studies._parts import Part, measured, shown
from brittle.studies._study import Claim, Plot

RUNS = 5
FACTORS = (0.25, 1.0, 4.0)
BALLS = {"absolute": "absolute, 0.01", "rms": "0.03 of each layer's rms", "element": "0.05 of each weight"}


def scaled(run: int, seed: int) -> dict:
    """A standard digits network and twins of the same function, first layer times c, second by c: accuracy attacked in three balls of the weights."""
    task = TASKS["digits"]
    module = trained(task, RECIPES["standard"], run, seed)
    _, (x, labels) = data(task)
    balls = {
        "absolute": region(w=0.01),
        "rms": region(w=0.03, relative="rms"),
        "element": region(w=0.05, relative="element"),
    }
    found = {}
    for factor in FACTORS:
        twin = twin_of(module, factor)
        with torch.no_grad():
            moved = float((twin(x) - module(x)).abs().max())
        answers = {name: asked(Problem(twin, x, labels, moves), seed) for name, moves in balls.items()}
        found[f"{factor:g}"] = {
            "moved": moved,
            **{name: [float(a.lower), float(a.upper)] for name, a in answers.items()},
        }
    return found


def twin_of(module: nn.Module, factor: float) -> nn.Module:
    """The same function of a ReLU network: first layer times ``factor``, second matrix by it."""
    twin = copied(module)
    first, second = [m for m in twin.modules() if isinstance(m, nn.Linear)][:2]
    with torch.no_grad():
        first.weight.mul_(factor)
        first.bias.mul_(factor)
        second.weight.div_(factor)
    return twin


def calls(full: bool, seed: int) -> dict[str, tuple]:
    return {f"scaled-{run}": (scaled, run, seed) for run in range(RUNS)}


def part(found: Mapping[str, dict]) -> Part:
    runs = [found[f"scaled-{run}"] for run in range(RUNS)]
    figure = plot(runs)
    return Part(shown(figure, claim(runs)), (), (figure,))


def change(runs: Sequence[Mapping], name: str, end: int = 1):
    """Largest difference that a rescaling makes to an answer, over the runs."""
    return median_of([max(abs(run[f"{c:g}"][name][end] - run["1"][name][end]) for c in FACTORS) for run in runs])


def claim(runs: Sequence[Mapping]) -> Claim:
    changes = {name: change(runs, name) for name in BALLS}
    holds = changes["absolute"].low > 0.1 and changes["rms"].high <= 0.03 and changes["element"].high <= 0.03
    return Claim(
        "An absolute ball of weights can be gamed by rescaling layers; relative balls cannot", "ours",
        "ours" if holds else "not reproduced",
        "largest change of attacked accuracy under rescalings by 1/4 and 4 that leave the function the same (logits within "
        f"{max(run[f'{c:g}']['moved'] for run in runs for c in FACTORS):.1g}): " + ", ".join(f"{BALLS[n]} {m}" for n, m in changes.items())
        + "; certified: " + ", ".join(f"{BALLS[n]} {change(runs, n, 0)}" for n in BALLS),
    )  # fmt: skip


def plot(runs: Sequence[Mapping]) -> Plot:
    curves = [
        measured(word, FACTORS, [median_of([run[f"{c:g}"][name][1] for run in runs]) for c in FACTORS])
        for name, word in BALLS.items()
    ]
    return Plot(
        "The same function, another absolute ball", "first layer times this factor, second divided by it", "attacked accuracy, weights alone", tuple(curves),
        "Five standard digits networks. Each example its own change of the weights.", log_x=True,
    )  # fmt: skip
