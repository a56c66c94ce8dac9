"""Random labels on a random subspace: the paper's two-layer networks, and the exact laws behind its bounds."""

from collections.abc import Mapping
from math import isfinite, sqrt

import torch
from torch import Tensor, nn

from brittle.randomness import fold
from brittle.studies._medians import Middle, median_of, slope
from brittle.studies._parts import Part, curve, measured, verdict
from brittle.studies._study import Claim, Plot, Table

RANK, POINTS, WIDTH, RUNS = 10, 30, 200, 10
DIMENSIONS, OFF, SCALES, DECAYS = (
    (20, 50, 100, 400, 1000),
    (10, 40, 90, 190, 390),
    (4.0, 1.0, 0.25, 0.0625),
    (0.0, 1e-3, 3e-3, 1e-2),
)
DEPTHS, OPTIMISERS = (2, 3, 5), ("sgd", "momentum", "adam")
ROUND, ROUNDS = 100, 30  # steps between looks at the margin, and how many looks at most
SOURCE = "arXiv 2303.00783"


def planted(
    dimension: int, rank: int, scale: float, run: int, seed: int,
    depth: int = 2, optimiser: str = "sgd", decay: float = 0.0, steps: int = 0, all_layers: bool = False,
) -> dict:  # fmt: skip
    """Train on ``POINTS`` inputs of length sqrt(dimension) and random labels in a random ``rank``-dimensional subspace.

    First layer drawn from N(0, scale^2 / dimension), as the paper's; only it is trained unless ``all_layers`` (deeper networks train all
    hidden layers). Full-batch logistic loss until every margin is at least 1, or for exactly ``steps``. Returns medians over the inputs, lengths relative to the input's.
    """
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball
    from brittle.subspace import Subspace

    draw = torch.Generator().manual_seed(fold(seed, "planted", run, dimension, rank))
    x, labels = _points(dimension, rank, draw)
    module = _network(dimension, scale, depth, draw, all_layers)
    before = module.get_parameter("0.weight").detach().clone()
    plane = Subspace.span(x)
    done, taken, least = _trained(module, x, labels, optimiser, decay, steps, seed)
    problem = Problem(done, x, labels, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=module, attacked=12, seed=seed).columns
    middle = lambda name: float(found[name].nanmedian())  # type: ignore[union-attr]
    length, right = sqrt(dimension), problem.margin() > 0
    radii = {n: found[n][:12][right[:12]] / length for n in ("on_radius", "off_radius", "radius")}  # type: ignore[index]
    kept = lambda v: None if not len(v) or not isfinite(float(v.median())) else float(v.median())
    change = plane.off(done.get_parameter("0.weight").detach() - before).norm() / plane.off(before).norm()
    universal = found["universal"][:12][right[:12]] / length  # type: ignore[index]
    return {
        "off_gradient": middle("off_gradient"), "predicted": middle("predicted"), "ratio": middle("ratio"), "share": middle("share"),
        **{name: kept(v) for name, v in radii.items()}, "gain": middle("removable_gain"), "universal": kept(universal),
        "flipped": float(universal.isfinite().double().mean()) if len(universal) else None, "moved": float(change),
        "kept": float(plane.off(done.get_parameter("0.weight").detach()).norm() / plane.off(before).norm()), "steps": taken, "margin": least,
    }  # fmt: skip


def _points(dimension: int, rank: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    basis = torch.linalg.qr(torch.randn(dimension, rank, generator=draw, dtype=torch.float64)).Q.T
    x = torch.randn(POINTS, rank, generator=draw, dtype=torch.float64) @ basis
    x = x / x.norm(dim=1, keepdim=True) * sqrt(dimension)
    return x, torch.randint(2, (POINTS,), generator=draw)


def _network(dimension: int, scale: float, depth: int, draw: torch.Generator, all_layers: bool) -> nn.Sequential:
    """ReLU layers without biases; the last weights are fixed signs / sqrt(width), unless all layers are trained."""
    widths = [dimension, *[WIDTH] * (depth - 1), 1]
    layers = [nn.Linear(a, b, bias=False).double() for a, b in zip(widths, widths[1:], strict=False)]
    with torch.no_grad():
        for k, layer in enumerate(layers):
            noise = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64)
            layer.weight.copy_(noise * (scale / sqrt(dimension) if k == 0 else sqrt(2 / WIDTH)))
        layers[-1].weight.copy_(layers[-1].weight.sign() / sqrt(WIDTH))
    layers[-1].weight.requires_grad_(all_layers)
    parts: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        parts += [nn.ReLU(), layer]
    return nn.Sequential(*parts)


def _trained(
    module: nn.Sequential, x: Tensor, labels: Tensor, optimiser: str, decay: float, steps: int, seed: int
) -> tuple[nn.Sequential, int, float]:
    """(network, steps taken, least margin). The kernel of the first layer grows with |x|² = d, so the rate falls like 1 / d."""
    from brittle.training import train

    rate = 5 / x.shape[1] if optimiser != "adam" else 1e-2
    rate = rate / 10 if optimiser == "momentum" else rate
    taken, least = 0, -1.0
    while taken < (steps or ROUND * ROUNDS) and (steps or least < 1):
        part = min(ROUND, steps - taken) if steps else ROUND
        module = train(  # type: ignore[assignment]
            module, x, labels, epochs=part, batch=None, optimiser="adam" if optimiser == "adam" else "sgd", rate=rate,
            momentum=0.9 if optimiser == "momentum" else 0.0, schedule="constant", weight_decay=decay,
            decoupled=False, judge_every=part, seed=seed,
        ).module  # fmt: skip
        taken += part
        with torch.no_grad():
            least = float(((2 * labels - 1) * module(x)[:, 0]).min())
    return module, taken, least


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs of every setting."""
    found: dict[str, tuple] = {}
    for run in range(RUNS):
        found |= {f"planted-d{d}-{run}": (planted, d, RANK, 1.0, run, seed) for d in DIMENSIONS}
        found |= {f"planted-off{n}-{run}": (planted, RANK + n, RANK, sqrt((RANK + n) / 200), run, seed) for n in OFF}
        found |= {f"planted-scale{s:g}-{run}": (planted, 200, RANK, s, run, seed) for s in SCALES}
        found |= {f"planted-decay{w:g}-{run}": (planted, 200, RANK, 1.0, run, seed, 2, "sgd", w, 1500) for w in DECAYS}
        found |= {f"planted-depth{k}-{run}": (planted, 200, RANK, 1.0, run, seed, k) for k in DEPTHS}
        found |= {f"planted-both-{run}": (planted, 200, RANK, 1.0, run, seed, 2, "sgd", 0.0, 0, True)}
        found |= {f"planted-{o}-{run}": (planted, 200, RANK, 0.1, run, seed, 2, o) for o in OPTIMISERS}
    return found


def part(found: Mapping[str, dict]) -> Part:
    """The laws in the ambient dimension, the number of off dimensions, the initialisation and the weight decay; depth and optimiser."""
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"planted-{word}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle), plots(middle))


def claims(middle) -> tuple[Claim, ...]:
    """Every claim with what was measured; ``middle(word, name)`` is the median over the runs of a setting."""
    ambient = slope(DIMENSIONS[2:], [middle(f"d{d}", "off_radius").value for d in DIMENSIONS[2:]])
    on = slope(DIMENSIONS[2:], [middle(f"d{d}", "on_radius").value for d in DIMENSIONS[2:]])
    off = slope(OFF, [middle(f"off{n}", "off_gradient").value for n in OFF])
    scale = slope(SCALES, [middle(f"scale{s:g}", "off_gradient").value for s in SCALES])
    distance = slope(SCALES[1:], [middle(f"scale{s:g}", "off_radius").value for s in SCALES[1:]])
    rates = {w: (middle(f"decay{w:g}", "kept"), (1 - 5 / 200 * w) ** 1500) for w in DECAYS}
    worst = max(abs(m.value / predicted - 1) for m, predicted in rates.values())
    depth = [middle(f"depth{k}", "ratio") for k in DEPTHS]
    moved = {o: middle(o, "moved") for o in OPTIMISERS}
    gradients = {o: middle(o, "off_gradient") for o in OPTIMISERS}
    both = middle("both", "ratio")
    flipped, cost = middle("d400", "flipped"), middle("d400", "universal").value / middle("d400", "off_radius").value
    return (
        Claim(
            "Trained two-layer networks have large gradients orthogonal to the data's subspace, so small perturbations exist there",
            f"{SOURCE}, abstract", verdict(ambient < -0.3 and middle("d1000", "off_radius").value < middle("d1000", "on_radius").value),
            f"in R^1000 the smallest perturbation off the 10-dimensional subspace is {middle('d1000', 'off_radius')} of |x|, inside it {middle('d1000', 'on_radius')}; "
            f"in R^20 they are {middle('d20', 'off_radius')} and {middle('d20', 'on_radius')}: small relative to the data only where most dimensions are off",
        ),
        Claim(
            "The off distance, relative to |x|, falls like 1/sqrt(d) at a fixed dimension of the data", f"{SOURCE}; derived",
            verdict(-0.7 < ambient < -0.35), f"exponent of d {ambient:.2f} (predicted -0.5) for d = 100 to 1000; inside the subspace {on:.2f}",
        ),
        Claim(
            "The off gradient grows like the root of the number of off dimensions", f"{SOURCE}; derived", verdict(0.4 < off < 0.6),
            f"exponent {off:.2f} (predicted 0.5) for {OFF[0]} to {OFF[-1]} off dimensions, every weight drawn at the same scale",
        ),
        Claim(
            "Scaling the initialisation scales the off gradient, and smaller initialisation makes the network more robust off the data", SOURCE,
            verdict(0.9 < scale < 1.1 and distance < -0.6),
            f"exponent of the off gradient in the scale {scale:.2f} (predicted 1), of the off distance {distance:.2f} (predicted -1)",
        ),
        Claim(
            "L2 regularisation cures it", SOURCE, verdict(worst < 0.02),
            "coupled decay shrinks the frozen part by exactly (1 - rate * decay)^steps: "
            + "; ".join(f"decay {w:g}: {m.value:.3f} (predicted {p:.3f})" for w, (m, p) in rates.items()),
        ),
        Claim(
            "The first layer's part off the data never moves under gradient descent, with momentum or without", "derived",
            "ours", f"relative change: plain {moved['sgd'].value:.1e}, momentum {moved['momentum'].value:.1e}",
        ),
        Claim(
            "Adam breaks the cure by small initialisation on data that are not aligned with the coordinates", "ours", "ours" if gradients["adam"].low > gradients["sgd"].high else "not reproduced",
            f"at a tenth of the initialisation the off gradient is {gradients['sgd']} after gradient descent and {gradients['adam']} after Adam, which moved the frozen part by {moved['adam'].value:.0%}",
        ),
        Claim(
            "The frozen-noise law s0 sqrt(l) |dm/dh| predicts the off gradient at any depth, and where both layers are trained", "derived",
            "ours" if all(abs(m.value - 1) < 0.1 for m in (*depth, both)) else "not reproduced",
            "measured / predicted at depth " + ", ".join(f"{k}: {m}" for k, m in zip(DEPTHS, depth, strict=True)) + f"; both layers trained: {both}",
        ),
        Claim(
            "One universal off direction serves all points", f"{SOURCE} (summary)", verdict(flipped.value > 0.95),
            f"in R^400 it breaks {flipped.value:.0%} of the inputs at {cost:.2f} times the size of each input's own smallest off perturbation",
        ),
    )  # fmt: skip


def tables(middle) -> tuple[Table, ...]:
    columns = (
        "setting",
        "off gradient",
        "measured / predicted",
        "share off",
        "off distance / |x|",
        "on distance / |x|",
        "distance / |x|",
        "steps",
    )
    names = ("off_gradient", "ratio", "share", "off_radius", "on_radius", "radius", "steps")
    words = (
        [f"d{d}" for d in DIMENSIONS]
        + [f"off{n}" for n in OFF]
        + [f"scale{s:g}" for s in SCALES]
        + [f"decay{w:g}" for w in DECAYS]
    )
    words += [f"depth{k}" for k in DEPTHS] + ["both", *OPTIMISERS]
    rows = tuple((SETTINGS(w), *(_cell(middle(w, n)) for n in names)) for w in words)
    return (
        Table(
            "Networks on planted subspaces", columns, rows,
            f"{POINTS} points of length sqrt(d), random labels, width {WIDTH}, margin 1 (decay: 1500 steps). Median over the runs [95 % interval] of medians over the points. "
            "A dash: no perturbation was found.",
        ),
    )  # fmt: skip


def SETTINGS(word: str) -> str:  # noqa: N802 - reads as the name of a row
    """A setting in words.

    >>> SETTINGS("d50"), SETTINGS("adam")
    ('R^50, 10 dimensions of data', 'adam, initialisation x 0.1')
    """
    known = {"both": "both layers trained, R^200", **{o: f"{o}, initialisation x 0.1" for o in OPTIMISERS}}
    if word in known:
        return known[word]
    for start, text in (
        ("depth", "{} layers, R^200"), ("decay", "weight decay {}, R^200"), ("scale", "initialisation x {}, R^200"),
        ("off", "{} off dimensions, weights as in R^200"), ("d", "R^{}, 10 dimensions of data"),
    ):  # fmt: skip
        if word.startswith(start):
            return text.format(word.removeprefix(start))
    return word


def _cell(middle: Middle) -> str:
    return str(middle) if middle.runs else "–"


def plots(middle) -> tuple[Plot, ...]:
    at = lambda words, name: [middle(w, name) for w in words]
    dims, scales = [f"d{d}" for d in DIMENSIONS], [f"scale{s:g}" for s in SCALES]
    first = middle("d1000", "off_radius").value * sqrt(1000)
    return (
        Plot(
            "The smaller the share of dimensions that the data fill, the smaller the perturbation off them", "dimension d of the input (the data fill 10)",
            "smallest perturbation / |x|",
            (
                measured("off the subspace", DIMENSIONS, at(dims, "off_radius")), measured("inside it", DIMENSIONS, at(dims, "on_radius")),
                curve("1/sqrt(d), through the last point", DIMENSIONS, [first / sqrt(d) for d in DIMENSIONS]),
            ),
            "Distances are witnessed by attacks inside, or orthogonal to, the span of the data.", log_x=True, log_y=True,
        ),
        Plot(
            "The off gradient is proportional to the initialisation", "scale of the first layer's initialisation (1: the paper's 1/sqrt(d))", "gradient off the subspace",
            (
                measured("measured", SCALES, at(scales, "off_gradient")),
                curve("frozen-noise law", SCALES, [m.value for m in at(scales, "predicted")]),
            ),
            "The law needs no fit: s0 sqrt(l) |dm/dh|.", log_x=True, log_y=True,
        ),
        Plot(
            "The off gradient grows with the number of off dimensions", "off dimensions", "gradient off the subspace",
            (
                measured("measured", OFF, at([f"off{n}" for n in OFF], "off_gradient")),
                curve("frozen-noise law", OFF, [m.value for m in at([f"off{n}" for n in OFF], "predicted")]),
            ),
            log_x=True, log_y=True,
        ),
        Plot(
            "Weight decay shrinks the frozen part exactly as predicted", "weight decay", "frozen part left, relative",
            (
                measured("measured", DECAYS, at([f"decay{w:g}" for w in DECAYS], "kept")),
                curve("(1 - rate x decay)^steps", DECAYS, [(1 - 5 / 200 * w) ** 1500 for w in DECAYS]),
            ),
        ),
    )  # fmt: skip
