"""Networks of the study ``joint``: how each is trained, and everything that is measured of it, in one cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf

import torch
from torch import Tensor, nn

from brittle.attacks.apgd import apgd
from brittle.executors._threads import one_thread
from brittle.problem import Problem
from brittle.questions.accuracy import accuracy
from brittle.questions.diagnose import diagnose
from brittle.randomness import fold
from brittle.region import Ball
from brittle.results import Bracket
from brittle.sources.assets import mnist
from brittle.sources.digits import digits
from brittle.training import train


@dataclass(frozen=True)
class Task:
    """Data, sizes and radii. ``input`` and ``weight`` are the l-inf radii that training and the questions share.

    rms, element  relative balls: (input radius, multiple of each layer's rms or of each weight)
    examples, steps, restarts: of attacks on the first test examples
    """

    name: str
    widths: tuple[int, ...]
    input: float
    weight: float
    rms: tuple[float, float]
    element: tuple[float, float]
    epochs: int
    rate: float
    batch: int
    examples: int
    steps: int
    restarts: int


TASKS = {
    "digits": Task("digits", (64, 32, 32, 10), 0.05, 0.01, (0.025, 0.03), (0.0, 0.05), 80, 3e-3, 64, 150, 30, 2),
    "mnist": Task("mnist", (784, 128, 64, 32, 10), 0.05, 0.001, (0.02, 0.01), (0.0, 0.02), 12, 1e-3, 100, 50, 20, 2),
}
MNIST_TRAINING = 10_000  # and as many test images are read, of which a task takes its first examples


@dataclass(frozen=True)
class Recipe:
    """One way to train: the penalties, and what moves in the region that they see.

    penalties  as for :func:`brittle.training.train`, but warm-ups in shares of all epochs
    moves      "x", "w" or "xw"; ``shared``: one change of the weights per batch, as an attack on the stored weights
    clean      weight of the loss at the given inputs
    """

    words: str
    penalties: Mapping[str, float | Mapping[str, object]] = field(default_factory=dict)
    moves: str = "xw"
    clean: float = 1.0
    shared: bool = False


PGD = {"adversarial": {"weight": 1.0, "steps": 5}}
RAMP: dict[str, object] = {"weight": 1.0, "warm_up": 1 / 3, "radius_warm_up": 1 / 2}
RECIPES = {
    "standard": Recipe("standard"),
    "input": Recipe("input adversarial", PGD, "x", 0.0),
    "weight": Recipe("weight adversarial", PGD, "w", 0.0, True),
    "joint": Recipe("joint adversarial", PGD, "xw", 0.0, True),
    "norms": Recipe("norm penalty", {"induced_norms": 5e-3}),
    "regularised": Recipe(
        "regularised", {"product_bound": {**RAMP, "weight": 0.1, "form": "product"}, "induced_norms": 1e-3}
    ),
    "awp": Recipe("AWP", {"awp": {"weight": 1.0, "steps": 5}}, "x", 0.0),
    "sam": Recipe("SAM", {"sam": 1.0}, "x", 0.0),
    "ibp": Recipe("joint interval training", {"joint_ibp": RAMP}),
    "fold": Recipe("joint relaxation training", {"fold_crown": RAMP}),  # thirty seconds a network: with --full only
}


def settings(recipe: Recipe, epochs: int) -> dict[str, dict[str, object]]:
    """The penalties with their warm-ups in epochs."""
    whole = {
        name: dict(given) if isinstance(given, Mapping) else {"weight": given}
        for name, given in recipe.penalties.items()
    }
    in_epochs = lambda k, v: v * epochs if k.endswith("warm_up") and isinstance(v, float) else v
    return {name: {k: in_epochs(k, v) for k, v in given.items()} for name, given in whole.items()}


def network(task: Task, seed: int) -> nn.Sequential:
    """A dense ReLU network with torch's default initialisation, drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [m for a, b in zip(task.widths, task.widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])


def data(task: Task) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training data, and the first test examples: flat pixels in [0, 1]."""
    source = digits if task.name == "digits" else partial(mnist, limit=MNIST_TRAINING)
    (x, labels), (test, truth) = source("train"), source("test")
    flat = lambda v: torch.as_tensor(v).flatten(1)
    return (flat(x), torch.as_tensor(labels)), (flat(test)[: task.examples], torch.as_tensor(truth)[: task.examples])


def region(x: float = 0.0, w: float = 0.0, relative: str | None = None, shared: bool = False) -> dict[str, Ball]:
    """Pixels within ``x`` and all weight matrices within ``w``; a radius of 0 leaves its leaf out."""
    found = {"x": Ball(p=inf, radius=x, low=0, high=1)} if x else {}
    return found | ({"*.weight": Ball(p=inf, radius=w, relative=relative, shared=shared)} if w else {})


def trained(task: Task, recipe: Recipe, run: int, seed: int) -> nn.Module:
    (x, labels), _ = data(task)
    moves = region(task.input * ("x" in recipe.moves), task.weight * ("w" in recipe.moves), shared=recipe.shared)
    return train(
        network(task, fold(seed, "joint", task.name, run)), x, labels, penalties=settings(recipe, task.epochs), clean_weight=recipe.clean,
        region=moves, epochs=task.epochs, batch=task.batch, rate=task.rate, seed=fold(seed, "training", run),
    ).module  # fmt: skip


def net(task_name: str, recipe_name: str, run: int, seed: int) -> dict:
    """Train one network and measure it: about ten seconds."""
    task = TASKS[task_name]
    module = trained(task, RECIPES[recipe_name], run, seed)
    _, (x, labels) = data(task)
    return measured(module, x, labels, task, seed)


def asked(problem: Problem, seed: int, ends: str = "both", steps: int = 30, restarts: int = 2) -> Bracket:
    """Accuracy in the worst case: best of interval bounds and linear relaxation below, projected gradient steps above."""
    shared = any(ball.shared for ball in problem.region.values())
    attacks = None if shared else [partial(apgd, steps=steps, restarts=restarts)]
    with one_thread():
        return accuracy(problem, ends=ends, bounds=["ibp", "crown"], attacks=attacks, seed=seed)


def measured(module: nn.Module, x: Tensor, labels: Tensor, task: Task, seed: int) -> dict:
    """Brackets of accuracy by question, each ``[certified, attacked]``, by the names of :func:`questions`."""
    found: dict[str, object] = {}
    problem = Problem(module, x, labels)
    found["clean"] = float((problem.margin() > 0).double().mean())
    for name, moves in questions(task).items():
        answer = asked(
            problem.within(moves), seed, "upper" if name.startswith("shared") else "both", task.steps, task.restarts
        )
        found[name] = [float(answer.lower), float(answer.upper)]
    matrices = [p.detach() for p in module.parameters() if p.dim() > 1]
    found["rms of layers"] = [float(w.square().mean().sqrt()) for w in matrices]
    found["row sums"] = [float(w.abs().sum(1).max()) for w in matrices]
    found["faults"] = faults_of(problem, seed, 10, ())
    return found


def questions(task: Task) -> dict[str, dict[str, Ball]]:
    """What is asked of every network. Keys that begin with "shared" ask for one change of the weights for all examples."""
    e, w = task.input, task.weight
    return {
        "x": region(e), "w": region(w=w), "xw": region(e, w), "half": region(e / 2, w / 2),
        "shared w": region(w=w, shared=True), "shared xw": region(e, w, shared=True), "shared half": region(e / 2, w / 2, shared=True),
        "rms": region(*task.rms, relative="rms"), "rms w": region(w=task.rms[1], relative="rms"),
        "element": region(*task.element, relative="element"),
    }  # fmt: skip


def faults_of(problem: Problem, seed: int, flips: int, random: tuple[int, ...]) -> dict[str, object]:
    """Accuracy after rounding to each format, after worst and after random bit flips of int8 weights."""
    found = diagnose(problem, "faults", flips=flips, random=random, ball=None, seed=seed)
    rows = [dict(zip(found.columns, v, strict=True)) for v in zip(*found.columns.values(), strict=True)]
    whole = [r for r in rows if r["reading"] == "rounding" and r["leaf"] == "all"]
    return {
        "rounding": {r["format"]: r["accuracy"] for r in whole},
        "agreement": {r["format"]: r["agreement"] for r in whole},
        "worst": [r["accuracy"] for r in rows if r["reading"] == "worst bit flips"],
        "random": [[r["accuracy"], r["worst"]] for r in rows if r["reading"] == "random bit flips"],
    }
