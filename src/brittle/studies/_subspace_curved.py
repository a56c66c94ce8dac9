"""Data on curved manifolds whose tangents are known: what of the gradient's normal part is frozen, and what is trained."""

from collections.abc import Callable, Mapping
from math import isfinite, pi, sqrt

import torch
from torch import Tensor, nn

from brittle.randomness import fold
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part, measured
from brittle.studies._study import Claim, Plot, Table

DIMENSION, POINTS, WIDTH, RUNS, ATTACKED = 200, 150, 200, 10, 4
ROUND, ROUNDS = 100, 6
BENDS = (5, 20, 80)  # frequencies of a closed curve: it spans twice as many dimensions
MANIFOLDS = ("sphere", "swiss roll", *(f"curve{f}" for f in BENDS), "images")
SIDE, BLOB = 14, 1.5  # images of 14 x 14 pixels with a bump of this width that moves
WORDS = {
    "sphere": "sphere, 2 dimensions", "swiss roll": "Swiss roll, 2 dimensions", "images": f"{SIDE} x {SIDE} images of a bump that moves, 2 dimensions",
    **{f"curve{f}": f"closed curve of {f} frequencies, 1 dimension" for f in BENDS},
}  # fmt: skip


def curved(manifold: str, run: int, seed: int) -> dict:
    """Train two layers on points of a manifold, labels by a smooth function of its parameters, and split the margin's gradient at every point.

    Three orthogonal parts: tangent, normal inside the linear span of the data, off the span. Lengths relative to the mean |x|.
    """
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball
    from brittle.subspace import Subspace

    draw = torch.Generator().manual_seed(fold(seed, "curved", manifold, run))
    x, tangents, labels = _points(manifold, draw)
    module = _network(x.shape[1], draw)
    done, taken = _trained(module, x, labels, seed)
    plane = Subspace.span(x)
    problem = Problem(done, x, labels, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=module, attacked=0, seed=seed).columns
    gradient = problem.gradient(problem.centre)[1]["x"]
    whole = gradient.square().sum(1)
    inside = plane.on(gradient)
    along = (gradient[:, None] @ tangents.mT).square().sum((1, 2))
    change = done.get_parameter("0.weight").detach() - module.get_parameter("0.weight").detach()
    relative = lambda part: float(part(change).norm() / part(module.get_parameter("0.weight").detach()).norm())
    middle = lambda v: float(v.nanmedian())
    shares = {"tangent": along, "normal": inside.square().sum(1) - along, "off": found["off_gradient"].square()}  # type: ignore[union-attr]
    return {
        "span": plane.dimension, "d": x.shape[1], "steps": taken, "accuracy": float((problem.margin() > 0).double().mean()),
        **{f"{name}_share": middle(v / whole) for name, v in shares.items()}, "chance": 1 - tangents.shape[1] / x.shape[1],
        "span_chance": plane.chance, "ratio": middle(found["ratio"]) if plane.codimension else None,  # type: ignore[arg-type]
        "moved_off": relative(plane.off) if plane.codimension else None, "moved_on": relative(plane.on),
        **_radii(problem, tangents),
    }  # fmt: skip


def _radii(problem, tangents: Tensor) -> dict:
    """Smallest l2 perturbations normal to the manifold, and at all, for the first few examples that are right; relative to |x|."""
    from brittle.problem import Problem
    from brittle.questions.radius import radius
    from brittle.region import Ball
    from brittle.subspace import Subspace

    right = (problem.margin() > 0).nonzero()[:ATTACKED, 0]
    found: dict[str, list[float]] = {"radius": [], "normal_radius": []}
    for i in right.tolist():
        length = float(problem.x[i].norm())
        for name, normal in (("radius", None), ("normal_radius", Subspace.given(tangents[i]))):
            asked = Problem(
                problem.module,
                problem.x[i : i + 1],
                problem.labels[i : i + 1],
                Ball(p=2, radius=1.0, orthogonal_to=normal),
            )
            found[name].append(float(radius(asked, effort="quick", ends="upper").upper[0]) / length)
    middle = {name: sorted(v)[len(v) // 2] if v else None for name, v in found.items()}
    return {name: v if v is not None and isfinite(v) else None for name, v in middle.items()}


def _points(manifold: str, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, d), an orthonormal basis of the tangent space at each (N, k, d), labels (N,)."""
    uniform = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)
    if manifold == "images":
        at = 3 + (SIDE - 7) * uniform(POINTS, 2)
        chart = _bump
        labels = (at[:, 0] + at[:, 1] > SIDE - 1).long()
    elif manifold == "sphere":
        at = torch.stack([2 * pi * uniform(POINTS), (2 * uniform(POINTS) - 1).acos()], 1)
        chart = lambda p: torch.stack([p[0].cos() * p[1].sin(), p[0].sin() * p[1].sin(), p[1].cos()])
        labels = ((2 * at[:, 0]).sin() * at[:, 1].cos() > 0).long()
    elif manifold == "swiss roll":
        at = torch.stack([1.5 * pi * (1 + 2 * uniform(POINTS)), 10 * uniform(POINTS)], 1)
        chart = lambda p: torch.stack([p[0] * p[0].cos(), p[1], p[0] * p[0].sin()]) / 10
        labels = (at[:, 0] > 3 * pi).long()
    else:
        count = int(manifold.removeprefix("curve"))
        at = 2 * pi * uniform(POINTS, 1)
        waves = torch.arange(1, count + 1, dtype=torch.float64)
        chart = lambda p: torch.cat([(waves * p[0]).cos(), (waves * p[0]).sin()]) / sqrt(count)
        labels = ((2 * at[:, 0]).sin() > 0).long()
    low = torch.stack([chart(p) for p in at])
    slopes = torch.func.vmap(torch.func.jacfwd(chart))(at).mT
    if manifold == "images":
        return low, torch.linalg.qr(slopes.mT).Q.mT, labels
    turn = torch.linalg.qr(torch.randn(DIMENSION, low.shape[1], generator=draw, dtype=torch.float64)).Q.T
    scale = sqrt(DIMENSION) / float(low.norm(dim=1).mean())
    return low @ turn * scale, torch.linalg.qr(slopes.mT).Q.mT @ turn, labels


def _bump(p: Tensor) -> Tensor:
    """An image of a Gaussian bump at p, its pixels scaled so that |x| is about sqrt(d)."""
    grid = torch.arange(SIDE, dtype=torch.float64)
    rows, columns = (torch.exp(-((grid - c) ** 2) / (2 * BLOB**2)) for c in (p[0], p[1]))
    return torch.outer(rows, columns).reshape(-1) * SIDE / (BLOB * sqrt(pi))


def _network(d: int, draw: torch.Generator) -> nn.Sequential:
    module = nn.Sequential(nn.Linear(d, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(WIDTH, d, generator=draw, dtype=torch.float64) / sqrt(d))  # type: ignore[operator,union-attr]
        module[2].weight.copy_(torch.randn(1, WIDTH, generator=draw, dtype=torch.float64) / sqrt(WIDTH))  # type: ignore[operator,union-attr]
        module[0].bias.zero_(), module[2].bias.zero_()  # type: ignore[operator,union-attr]
    return module


def _trained(module: nn.Sequential, x: Tensor, labels: Tensor, seed: int) -> tuple[nn.Sequential, int]:
    """Both layers, full-batch gradient descent on the logistic loss until the least margin is 1, or for ``ROUND x ROUNDS`` steps."""
    from brittle.training import train

    for done in range(ROUNDS):
        module = train(
            module,
            x,
            labels,
            epochs=ROUND,
            batch=None,
            optimiser="sgd",
            rate=5 / x.shape[1],
            schedule="constant",
            judge_every=ROUND,
            seed=seed,
        ).module  # type: ignore[assignment]
        with torch.no_grad():
            least = float(((2 * labels - 1) * module(x)[:, 0]).min())
        if least >= 1:
            return module, (done + 1) * ROUND
    return module, ROUND * ROUNDS


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs of every manifold."""
    return {f"curved-{m.replace(' ', '_')}-{run}": (curved, m, run, seed) for run in range(RUNS) for m in MANIFOLDS}


def part(found: Mapping[str, dict]) -> Part:
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"curved-{word.replace(' ', '_')}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle), plots(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    frozen = {m: middle(m, "ratio") for m in MANIFOLDS}
    moved = max(middle(m, "moved_off").value for m in MANIFOLDS)
    few, many = f"curve{BENDS[0]}", f"curve{BENDS[-1]}"
    shares = [middle(f"curve{f}", "off_share") for f in BENDS]
    normal = [1 - middle(f"curve{f}", "tangent_share").value for f in BENDS]
    return (
        Claim(
            "On a curved manifold the directions off its linear span are frozen, exactly as on a flat one", "derived",
            "ours" if moved < 1e-5 and all(abs(v.value - 1) < 0.1 for v in frozen.values()) else "not reproduced",
            f"the first layer's part off the span moves by {moved:.0e} of its length at most; measured / predicted off gradient: "
            + ", ".join(f"{WORDS[m].split(',')[0]} {v.value:.2f}" for m, v in frozen.items()),
        ),
        Claim(
            "The more a manifold bends, the less of the normal gradient is frozen, yet nearly all of the gradient stays normal", "ours",
            "ours" if shares[-1].high < shares[0].low and min(normal) > 0.7 else "not reproduced",
            f"closed curves of {', '.join(map(str, BENDS))} frequencies ({', '.join(str(2 * f) for f in BENDS)} of {DIMENSION} dimensions): off the span "
            f"{', '.join(f'{s.value:.2f}' for s in shares)} of the gradient's energy, normal to the curve {', '.join(f'{n:.2f}' for n in normal)}; the rest of the normal part lies in the "
            f"span, where training moves the first layer by {middle(few, 'moved_on').value:.0%} to {middle(many, 'moved_on').value:.0%}",
        ),
        Claim(
            "The smallest perturbation of a network on a manifold is nearly normal to it", "ours",
            "ours" if all(middle(m, "normal_radius").value < 1.25 * middle(m, "radius").value for m in MANIFOLDS) else "only when",
            "smallest perturbation normal to the manifold over the smallest of all: "
            + ", ".join(f"{WORDS[m].split(', ')[0]} {middle(m, 'normal_radius').value / middle(m, 'radius').value:.2f}" for m in MANIFOLDS),
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    names = (
        "accuracy",
        "tangent_share",
        "normal_share",
        "off_share",
        "span_chance",
        "ratio",
        "moved_on",
        "normal_radius",
        "radius",
    )
    columns = (
        "manifold", "dimensions of its span", "right", "share along it", "normal, in its span", "off its span", "(by chance)", "off gradient, measured / predicted",
        "first layer moved, in the span", "distance normal to it / |x|", "distance / |x|",
    )  # fmt: skip
    rows = tuple(
        (WORDS[m], f"{middle(m, 'span').value:.0f} of {middle(m, 'd').value:.0f}", *(str(middle(m, n)) for n in names))
        for m in MANIFOLDS
    )
    note = f"{POINTS} points, labels by a smooth function of the manifold's parameters, width {WIDTH}, both layers trained to margin 1 (at most {ROUND * ROUNDS} steps). Median of ten runs [95 % interval]; distances of {ATTACKED} points."
    return (Table("Curved manifolds with known tangents", columns, rows, note),)


def plots(middle: Callable[[str, str], Middle]) -> tuple[Plot, ...]:
    at = lambda name: [middle(f"curve{f}", name) for f in BENDS]
    return (
        Plot(
            "A curve that bends more leaves less of the gradient to frozen noise", "frequencies of the curve (it spans twice as many dimensions)", "share of the gradient's energy",
            (measured("off the span: frozen", BENDS, at("off_share")), measured("normal, inside the span: trained", BENDS, at("normal_share")),
             measured("along the curve", BENDS, at("tangent_share"))), log_x=True,
        ),
    )  # fmt: skip
