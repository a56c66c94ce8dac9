"""Cures side by side on real digits: what each one buys in radius, and what it costs in clean accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SIZES = (64, 100, 100, 10)
RATE, BATCH, EPOCHS = 2e-3, 64, 60
HELD_OUT = (
    0.15  # of the training digits: early stopping and the choice of a strength look at these, never at the test digits
)
TOLERATED = 0.01  # clean accuracy that a cure may cost on the held-out digits
TUNING_SEEDS = (100, 101, 102)  # that no comparison uses


@dataclass(frozen=True)
class Cure:
    """One way to train, with one number to choose.

    kind      "plain", "baseline" or "compression"
    penalty   its name; "" where the cure is an option of the training loop
    vary      what the strength is: "weight" or an option of the penalty, else an option of the training loop
    grid      strengths that were tried, increasing
    strength  the largest of the grid that costs at most one point of accuracy on the held-out digits (mean of the tuning seeds)
    """

    kind: str
    penalty: str = ""
    vary: str = "weight"
    grid: tuple[float, ...] = ()
    strength: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)

    def arguments(self, strength: float | None) -> dict[str, object]:
        """Keyword arguments of the training loop."""
        if strength is None:
            return dict(self.training)
        if not self.penalty:
            return {**self.training, self.vary: strength}
        return {**self.training, "penalties": {self.penalty: {**self.options, self.vary: strength}}}


WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
SMALL = (0.001, 0.003, 0.01, 0.03, 0.1)
NO_CLEAN_LOSS = {"clean_weight": 0.0}
CURES = {
    "plain": Cure("plain"),
    "early_stopping": Cure("baseline", training={"patience": 5}),
    "weight_decay": Cure("baseline", vary="weight_decay", grid=(0.1, 0.3, 1.0, 3.0), strength=1.0),
    "noise": Cure("baseline", "noise", "sigma", (0.1, 0.2, 0.3, 0.4), 0.4, training=NO_CLEAN_LOSS),
    "jacobian": Cure("baseline", "jacobian", grid=SMALL, strength=0.003),
    "gradient": Cure("baseline", "gradient", grid=(0.03, 0.1, 0.3, 1.0, 3.0), strength=0.3),
    "centroid_alignment": Cure("baseline", "centroid_alignment", grid=WEIGHTS, strength=1.0),
    "adversarial": Cure(
        "baseline", "adversarial", "radius", (0.3, 0.4, 0.5, 0.6, 0.8), 0.6, options={"p": 2}, training=NO_CLEAN_LOSS
    ),
    "path_alignment": Cure("compression", "path_alignment", grid=WEIGHTS, strength=3.0),
    "transverse_gradient": Cure("compression", "transverse_gradient", grid=WEIGHTS, strength=3.0),
    "transverse_energy": Cure(
        "compression", "transverse_gradient", grid=SMALL, strength=0.01, options={"relative": False}
    ),
    "path_ratio": Cure("compression", "path_ratio", grid=WEIGHTS, strength=1.0),
    "inverse_ratio": Cure("compression", "path_ratio", grid=WEIGHTS, strength=0.3, options={"inverse": True}),
    "predicted_radius": Cure("compression", "predicted_radius", grid=WEIGHTS, strength=1.0),
    "two_gradient": Cure("compression", "two_gradient", grid=WEIGHTS, strength=1.0),
    "row_space": Cure("compression", "row_space", grid=WEIGHTS, strength=3.0),
}


def cure(
    name: str,
    seed: int,
    strength: float | None = None,
    epochs: int = EPOCHS,
    examples: int = 100,
    effort: str = "standard",
) -> dict[str, object]:
    """Train the digits network by one cure and attack the result: plain numbers for a cell of a study.

    strength   default the chosen one of ``CURES``
    examples   test digits that are attacked; 0 attacks none (for the choice of a strength)

    Returns "accuracy" (500 test digits), "held_out" (accuracy there), "epochs", "forward", "backward", "seconds" (of the training),
    "radii" (l2, witnessed by attacks that know the network and its gradients; 0 where misclassified, inf where nothing was found),
    and their "median" and "mean".
    """
    import torch

    from brittle.problem import Problem
    from brittle.questions.radius import radius
    from brittle.region import Ball
    from brittle.sources.digits import digits
    from brittle.training import train

    method = CURES[name]
    x, labels = digits("train")
    ball = Ball(p=2, radius=1.0, low=0, high=1)
    done = train(
        network(seed), x, labels, region=ball, epochs=epochs, rate=RATE, batch=BATCH, seed=seed, validation=HELD_OUT,
        **method.arguments(method.strength if strength is None else strength),  # type: ignore[arg-type]
    )  # fmt: skip
    test, truth = digits("test")
    assert isinstance(test, torch.Tensor)
    with torch.no_grad():
        accuracy = float((done.module(test).argmax(1) == truth).double().mean())
    facts: dict[str, object] = {
        "accuracy": accuracy, "held_out": done.history["accuracy"][done.epoch - 1], "epochs": done.epoch,
        "forward": done.cost.forward, "backward": done.cost.backward, "seconds": done.cost.seconds,
    }  # fmt: skip
    if not examples:
        return facts
    problem = Problem(done.module, test[:examples], truth[:examples], ball)
    found = radius(problem, effort=effort, ends="upper", seed=seed)
    return {
        **facts,
        "radii": found.upper.tolist(),
        "median": float(found.upper.median()),
        "mean": float(found.upper.mean()),
    }


def network(seed: int):
    """The 64-100-100-10 ReLU network, as torch initialises it from this seed."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [part for a, b in zip(SIZES, SIZES[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])


def choose(name: str, held_out: Mapping[float, Sequence[float]], plain: Sequence[float]) -> float | None:
    """The largest strength whose mean held-out accuracy is within a point of plain training's; None if even the smallest costs more."""
    mean = lambda values: sum(values) / len(values)
    kept = [s for s in CURES[name].grid if mean(held_out[s]) >= mean(plain) - TOLERATED]
    return max(kept, default=None)
