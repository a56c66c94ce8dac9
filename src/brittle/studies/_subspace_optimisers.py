"""What each optimiser, with and without weight decay, does to the part of the first layer that the data never train."""

from collections.abc import Callable, Mapping
from math import exp, sqrt

import torch
from torch import Tensor, nn

from brittle.randomness import fold
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part
from brittle.studies._study import Claim, Table

DIMENSION, RANK, POINTS, WIDTH, STEPS, RUNS = 200, 10, 30, 200, 250, 10
DECAY, MOMENTUM, STRONG = 1e-2, 0.9, 1.0
RATES = {"sgd": 5 / DIMENSION, "momentum": 0.5 / DIMENSION, "adam": 1e-3, "rmsprop": 1e-3}
SETTINGS: dict[str, tuple[str, float, bool]] = {  # name: optimiser, decay, decoupled
    "sgd": ("sgd", 0.0, False),
    "sgd-coupled": ("sgd", DECAY, False),
    "sgd-decoupled": ("sgd", DECAY, True),
    "momentum-coupled": ("momentum", DECAY, False),
    "adam": ("adam", 0.0, False),
    "adam-coupled": ("adam", DECAY, False),
    "adam-decoupled": ("adam", DECAY, True),
    "adam-decoupled-strong": ("adam", STRONG, True),
    "rmsprop": ("rmsprop", 0.0, False),
}
WORDS = {
    "sgd": "gradient descent", "sgd-coupled": f"gradient descent, coupled decay {DECAY:g}", "sgd-decoupled": f"gradient descent, decoupled decay {DECAY:g}",
    "momentum-coupled": f"momentum {MOMENTUM:g}, coupled decay {DECAY:g}", "adam": "Adam", "adam-coupled": f"Adam, coupled decay {DECAY:g}",
    "adam-decoupled": f"Adam, decoupled decay {DECAY:g}", "adam-decoupled-strong": f"Adam, decoupled decay {STRONG:g}", "rmsprop": "RMSprop",
}  # fmt: skip


def optimised(setting: str, rotated: bool, run: int, seed: int) -> dict:
    """Train ``STEPS`` full-batch steps on random labels in a 10-dimensional subspace of R^200, spanned by coordinates or rotated.

    Returns the length of the first layer's part off the data, relative to what was drawn, and how far it moved.
    """
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball
    from brittle.subspace import Subspace
    from brittle.training import train

    optimiser, decay, decoupled = SETTINGS[setting]
    draw = torch.Generator().manual_seed(fold(seed, "optimisers", run))
    x, labels = _points(rotated, draw)
    module = _network(draw)
    done = train(
        module, x, labels, epochs=STEPS, batch=None, optimiser=_optimiser(optimiser), rate=RATES[optimiser],
        momentum=MOMENTUM if optimiser == "momentum" else 0.0, schedule="constant", weight_decay=decay, decoupled=decoupled, judge_every=STEPS, seed=seed,
    ).module  # fmt: skip
    plane = Subspace.span(x)
    before, after = (plane.off(m.get_parameter("0.weight").detach()) for m in (module, done))
    problem = Problem(done, x, labels, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=module, attacked=0, seed=seed).columns
    return {
        "kept": float(after.norm() / before.norm()), "moved": float((after - before).norm() / before.norm()),
        "accuracy": float((problem.margin() > 0).double().mean()), "ratio": float(found["ratio"].nanmedian()),  # type: ignore[union-attr]
        "off_gradient": float(found["off_gradient"].nanmedian()),  # type: ignore[union-attr]
    }  # fmt: skip


def _points(rotated: bool, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    turn = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=draw, dtype=torch.float64)).Q
    x = torch.zeros(POINTS, DIMENSION, dtype=torch.float64)
    x[:, :RANK] = torch.randn(POINTS, RANK, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True) * sqrt(DIMENSION)
    return x @ turn if rotated else x, torch.randint(2, (POINTS,), generator=draw)


def _network(draw: torch.Generator) -> nn.Sequential:
    module = nn.Sequential(nn.Linear(DIMENSION, WIDTH, bias=False), nn.ReLU(), nn.Linear(WIDTH, 1, bias=False)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(WIDTH, DIMENSION, generator=draw, dtype=torch.float64) / sqrt(DIMENSION))  # type: ignore[operator,union-attr]
        module[2].weight.copy_(torch.randn(1, WIDTH, generator=draw, dtype=torch.float64).sign() / sqrt(WIDTH))  # type: ignore[operator,union-attr]
    module[2].weight.requires_grad_(False)
    return module


def _optimiser(name: str) -> str | Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    if name == "rmsprop":
        return lambda weights: torch.optim.RMSprop(weights, lr=RATES["rmsprop"])
    return "adam" if name == "adam" else "sgd"


def predicted(setting: str, rotated: bool) -> float | None:
    """The frozen part left, from the rate, the decay and the number of steps; None where the optimiser leaves the span.

    >>> predicted("sgd", True), predicted("adam", True), predicted("adam", False)
    (1.0, None, 1.0)
    """
    optimiser, decay, decoupled = SETTINGS[setting]
    if optimiser in ("adam", "rmsprop") and (rotated or (decay and not decoupled)):
        return None
    if optimiser == "momentum":
        return exp(-RATES[optimiser] * decay * STEPS / (1 - MOMENTUM))
    return (1 - RATES[optimiser] * decay) ** STEPS


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs of every optimiser, on data along coordinates and on rotated data."""
    return {
        f"optimisers-{'rotated' if rotated else 'aligned'}-{name}-{run}": (optimised, name, rotated, run, seed)
        for run in range(RUNS) for rotated in (False, True) for name in SETTINGS
    }  # fmt: skip


def part(found: Mapping[str, dict]) -> Part:
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"optimisers-{word}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    law = {(s, r): p for s in SETTINGS for r in (False, True) if (p := predicted(s, r)) is not None}
    kept = {(s, r): middle(f"{_word(r)}-{s}", "kept").value for s, r in law}
    worst = max(law, key=lambda key: abs(kept[key] / law[key] - 1))
    erased, spared = middle("aligned-adam-coupled", "kept"), middle("aligned-adam-decoupled", "kept")
    left, moved = middle("rotated-adam-decoupled", "kept"), middle("rotated-adam", "moved")
    strong = middle("rotated-adam-decoupled-strong", "off_gradient")
    return (
        Claim(
            "Weight decay shrinks the frozen part by a factor that the rate, the decay and the number of steps fix", "derived",
            "ours" if abs(kept[worst] / law[worst] - 1) < 0.02 else "not reproduced",
            f"gradient descent with coupled or decoupled decay, momentum, and Adam with decoupled decay on data along coordinates: predicted {law['sgd-coupled', True]:.3f} to "
            f"{law['momentum-coupled', True]:.3f}, furthest from the prediction by {abs(kept[worst] / law[worst] - 1):.1%}",
        ),
        Claim(
            "Under Adam coupled decay erases what the data do not train, decoupled decay spares it", "ours",
            "ours" if erased.high < 0.7 * spared.low else "not reproduced",
            f"data along coordinates, decay {DECAY:g}: {erased} of it is left with coupled decay, {spared} with decoupled decay: the coupled term is divided by its own size, so the "
            "weight loses about the rate in every step, however small the decay",
        ),
        Claim(
            "On rotated data Adam and RMSprop leave the span, and decoupled decay of the usual size is no cure", "ours",
            "ours" if moved.low > 0.05 and left.low > 0.9 else "not reproduced",
            f"Adam moves the part off the data by {moved} of its length, RMSprop by {middle('rotated-rmsprop', 'moved')}; with decoupled decay {DECAY:g} {left} of the length is left, "
            f"with {STRONG:g} the off gradient falls from {middle('rotated-adam', 'off_gradient')} to {strong}",
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    rows = []
    for rotated in (False, True):
        for name in SETTINGS:
            law = predicted(name, rotated)
            cells = (str(middle(f"{_word(rotated)}-{name}", n)) for n in ("kept", "moved", "off_gradient"))
            kept, moved, gradient = cells
            rows.append(
                (
                    WORDS[name],
                    "rotated" if rotated else "along coordinates",
                    kept,
                    "–" if law is None else f"{law:.3g}",
                    moved,
                    gradient,
                )
            )
    columns = ("optimiser", "data", "frozen part left, relative", "predicted", "moved, relative", "off gradient")
    note = (
        f"{POINTS} points of R^{DIMENSION} in {RANK} dimensions, random labels, two layers of which the first is trained, {STEPS} full-batch steps, initialisation 1/sqrt(d). "
        "Rates: " + ", ".join(f"{k} {v:g}" for k, v in RATES.items()) + ". Median of ten runs [95 % interval]. A dash: the optimiser leaves the span, nothing is predicted."
    )  # fmt: skip
    return (Table("Optimisers, weight decay and the part off the data", columns, tuple(rows), note),)


def _word(rotated: bool) -> str:
    return "rotated" if rotated else "aligned"
