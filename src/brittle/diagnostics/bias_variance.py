"""Is the vulnerability one of bias or of variance? Several networks of one recipe, decomposed clean and under attack."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.network import Network, call
from brittle.problem import Problem
from brittle.results import Finding, Witness

ABOUT = About(
    promise="bias and variance of the squared error and of the cross-entropy, clean and under attack, over networks of one recipe",
    reference="after Aboutalebi et al., Vulnerability under adversarial machine learning: bias or variance?, arXiv 2008.00138; its text was not at hand, the construction is ours",
    leaves=("input",),
    cost="one attack per network and scale, and (networks)^2 forward",
)


def bias_variance(
    problem: Problem,
    *,
    seed: int = 0,
    models: Sequence[Callable] = (),
    attack: Callable[[Problem], Witness],
    scales: Sequence[float] = (0.0, 0.5, 1.0),
) -> Finding:
    """Decompose the mean error of B networks f_b, trained by one recipe on resampled data, at growing scales of the region.

    With p_b the softmax of network b at its input: squared error ``E_b |p_b - y|^2 = |p - y|^2 + E_b |p_b - p|^2`` with the mean
    p (bias² and variance); cross-entropy ``E_b KL(y, p_b) = KL(y, q) + E_b KL(q, p_b)`` with ``q ~ exp(E_b log p_b)``. Both are identities
    (tested to rounding). Each is given for attacks made on every network itself (``own``) and for those made on the problem's
    network and shown to all (``transferred``).

    If the attack raises the variance, the networks disagree about where they are weak and an ensemble helps; if it raises the bias, they share
    their weakness. ``gradient_agreement`` is the mean cosine between input gradients of the margins of different networks.

    models  at least two networks; resampling and training are the caller's (``brittle.training.train`` on random halves)
    attack  from a problem to a witness of small margin; ``bt.diagnose`` gives :func:`apgd`
    scales  multiples of the region; 0 is clean

    Errors: InputError for fewer than two networks, one logit, or a region that moves a parameter.

    >>> from torch import nn
    >>> from brittle import Ball, diagnose
    >>> _ = torch.manual_seed(0)
    >>> networks, x = [nn.Linear(2, 3) for _ in range(3)], torch.rand(4, 2)
    >>> problem = Problem(networks[0], x, torch.tensor([0, 1, 2, 0]), Ball(p=2, radius=0.1))
    >>> found = diagnose(problem, "bias_variance", models=networks)
    >>> found.columns["scale"].tolist()
    [0.0, 0.5, 1.0]
    """
    if len(models) < 2:
        raise InputError(
            "bias_variance", "models=[...], at least two", len(models), "train the recipe on random halves of the data"
        )
    if problem.leaves != ("x",) or list(problem.inputs) != ["x"]:
        raise InputError("bias_variance", 'a region that moves "x"', ", ".join(problem.leaves), "give a Ball")
    asked = [
        Problem(m, problem.x, problem.labels, problem.region, problem.spec, problem.index, problem.scale)
        for m in models
    ]
    rows = [_at_scale(problem, asked, attack, float(s)) for s in scales]
    columns: dict[str, Tensor | list] = {"scale": torch.tensor([float(s) for s in scales], dtype=torch.float64)}
    columns |= {name: torch.tensor([r[name] for r in rows], dtype=torch.float64) for name in rows[0]}
    agreement = _agreement(asked)
    return Finding(
        "bias_variance",
        "Bias or variance: what grows under attack",
        columns,
        ("scale", "own_bias", "own_variance", "transferred_bias", "transferred_variance"),
        "squared error",
        _sentence(columns, agreement, len(models)),
        value=f"gradient agreement {agreement:.2f}",
    )


def _at_scale(
    problem: Problem, asked: Sequence[Problem], attack: Callable[[Problem], Witness], scale: float
) -> dict[str, float]:
    own = [_points(p, attack, scale) for p in asked]
    shared = _points(problem, attack, scale)
    found = {}
    for word, points in (("own", own), ("transferred", [shared] * len(asked))):
        logits = [_logits(p.network, x) for p, x in zip(asked, points, strict=True)]
        parts = decompose(torch.stack(logits), problem.labels)
        found |= {f"{word}_{name}": float(v.mean()) for name, v in parts.items()}
    return found


def _points(problem: Problem, attack: Callable[[Problem], Witness], scale: float) -> Tensor:
    return problem.inputs["x"] if scale == 0 else attack(problem.scaled(scale)).point["x"].to(problem.device)


def _logits(network: Network, x: Tensor) -> Tensor:
    meter.count(forward=len(x))
    with torch.no_grad():
        logits = call(network.quiet, x).double()
    if logits.shape[1] < 2:
        raise InputError(
            "bias_variance", "at least two logits", "one", "write a one-logit model as two logits, 0 and z"
        )
    return logits


def decompose(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """(B, N, C) logits of B networks: per example ``bias``, ``variance`` of the squared error and of the cross-entropy, and ``error``."""
    log = logits.log_softmax(2)
    p, y = log.exp(), torch.nn.functional.one_hot(labels, logits.shape[2]).to(log)
    mean = p.mean(0)
    geometric = log.mean(0).log_softmax(1)
    divergence = (geometric.exp() * (geometric - log)).sum(2)
    return {
        "bias": (mean - y).square().sum(1),
        "variance": (p - mean).square().sum(2).mean(0),
        "bias_cross_entropy": -geometric.gather(1, labels[:, None])[:, 0],
        "variance_cross_entropy": divergence.mean(0),
        "error": (logits.argmax(2) != labels).double().mean(0),
    }


def _agreement(asked: Sequence[Problem]) -> float:
    """Mean cosine of input gradients over pairs of networks and examples; a zero gradient agrees with nothing."""
    gradients = [p.gradient(p.centre)[1]["x"].flatten(1).double() for p in asked]
    unit = [g / g.norm(dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny) for g in gradients]
    pairs = [(a * b).sum(1).mean() for k, a in enumerate(unit) for b in unit[:k]]
    return float(torch.stack(pairs).mean())


def _sentence(columns: dict, agreement: float, count: int) -> str:
    rise = {name: float(columns[f"own_{name}"][-1] - columns[f"own_{name}"][0]) for name in ("bias", "variance")}
    larger = max(rise, key=rise.__getitem__)
    meaning = {
        "bias": "they share the weakness, so an ensemble will not cure it",
        "variance": "they are weak in different places, so an ensemble helps",
    }[larger]
    return (
        f"From scale {float(columns['scale'][0]):g} to {float(columns['scale'][-1]):g} the bias of {count} networks grows by {rise['bias']:.2g} and their variance by "
        f"{rise['variance']:.2g} (squared error): {meaning}. Their gradients have a mean cosine of {agreement:.2f}."
    )
