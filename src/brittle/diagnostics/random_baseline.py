"""Is the trained network more fragile than chance geometry? Its distance to the boundary against its own untrained copies."""

from collections.abc import Sequence
from math import inf, sqrt

import torch
from torch import Tensor, nn

from brittle import meter, norms
from brittle.about import About
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.reinitialised import reinitialised
from brittle.results import Finding
from brittle.spec import margin

ABOUT = About(
    promise="linearised distance x sqrt(n) / norm of the input, trained against re-initialised copies of the same architecture",
    reference="De Palma, Kiani and Lloyd, Adversarial robustness guarantees for random deep neural networks, ICML 2021",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="(copies + 1) x (classes - 1) forward and backward",
)
NORMS = {1: "l1", 2: "l2", inf: "linf"}


def random_baseline(
    problem: Problem, *, seed: int = 0, copies: int = 8, initial: Sequence[nn.Module] | None = None
) -> Finding:
    """The normalised distance ``r_p sqrt(n) / |x|_p`` of every example, for p = 1, 2, inf, beside that of untrained copies.

    ``r_p`` is the distance to the boundary of the network linearised at x: the smallest ``row / |gradient of row|_q`` over the
    rows of the specification, q dual to p. It is an estimate, not a bound (an attack can be shorter or longer). For random weights in the limit of
    infinite width the reference proves that ``r_p`` scales as ``|x|_p / sqrt(n)``; for one logit of a He-initialised ReLU network without
    biases the normalised l2 distance is |N(0, 1)|, of mean 0.798 (derived in our notes, measured 0.63 to 0.86).

    An untrained copy is asked about its own prediction, so that its distance says nothing about labels.

    copies   re-initialised copies, drawn with ``seed``; each layer by its own ``reset_parameters``
    initial  untrained networks to compare with instead, for architectures that initialise themselves elsewhere

    Columns, one value per example: ``trained_P``, ``random_P`` (median over the copies) and ``ratio_P`` for P in l1, l2, linf. A ratio below 1:
    more fragile than chance. ``status`` says where there is none: a misclassified example, an input of norm 0, a vanishing gradient.

    Errors: InputError where several inputs or a parameter move, or a layer cannot be initialised again.

    >>> from brittle import Ball, Problem
    >>> _ = torch.manual_seed(0)
    >>> network, x = nn.Linear(4, 3), torch.rand(2, 4)
    >>> found = random_baseline(Problem(network, x, network(x).argmax(1), Ball(p=2, radius=1.0)), copies=2)
    >>> sorted(found.columns)[:3]
    ['random_l1', 'random_l2', 'random_linf']
    """
    if list(problem.inputs) != ["x"] or problem.leaves not in ((), ("x",)):
        raise InputError(
            "random_baseline", 'the one input "x" that moves', ", ".join(problem.leaves), "ask about the input"
        )
    networks = list(initial) if initial is not None else [reinitialised(problem.module, seed, k) for k in range(copies)]
    if not networks:
        raise InputError("random_baseline", "at least one untrained copy", "none", "set copies=8")
    trained = _normalised(problem.double(), problem.labels)
    untrained = torch.stack([_untrained(problem, network) for network in networks])
    chance = untrained.nanmedian(0).values
    columns: dict[str, Tensor | list] = {}
    for k, word in enumerate(NORMS.values()):
        columns |= {f"trained_{word}": trained[:, k], f"random_{word}": chance[:, k]}
        columns[f"ratio_{word}"] = trained[:, k] / chance[:, k]
    columns["status"] = _status(problem, trained)
    return Finding(
        "random_baseline",
        "Distance to the boundary, against untrained copies of the same network",
        columns,
        ("random_l2", "trained_l2"),
        "distance x sqrt(n) / norm of the input",
        _sentence(columns, len(networks)),
    )


def _untrained(problem: Problem, network: nn.Module) -> Tensor:
    fresh = Problem(network, problem.x, problem.labels).double()
    with torch.no_grad():
        logits = fresh.logits()
    labels = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    return _normalised(fresh, labels)


def _normalised(problem: Problem, labels: Tensor) -> Tensor:
    """(N, 3) for p = 1, 2, inf; NaN where it does not exist (the caller says why)."""
    x = problem.inputs["x"].detach().clone().requires_grad_()
    with torch.enable_grad(), problem.network.recurrent_safe():
        rows = problem.spec.rows(problem.logits({"x": x}), labels)
        gradients = [
            torch.autograd.grad(rows[:, k].sum(), x, retain_graph=True, allow_unused=True)[0]
            for k in range(rows.shape[1])
        ]
    meter.count(backward=len(problem) * rows.shape[1])
    slopes = torch.stack([torch.zeros_like(x) if g is None else g for g in gradients], 1)
    scale = sqrt(x[0].numel())
    rank = problem.spec.rank
    found = [_distance(rows.detach(), slopes, norms.dual(p), rank) * scale / norms.norm(x.detach(), p) for p in NORMS]
    values = torch.stack(found, 1)
    holds = margin(rows.detach(), problem.spec.rank) > 0
    return torch.where(holds[:, None] & values.isfinite(), values, torch.nan).cpu()


def _distance(rows: Tensor, slopes: Tensor, q: float, rank: int) -> Tensor:
    """The property fails where the ``rank``-th smallest row does."""
    lengths = torch.linalg.vector_norm(slopes.flatten(2), q, dim=2)
    return torch.where(lengths > 0, rows / lengths, inf).kthvalue(rank, 1).values


def _status(problem: Problem, trained: Tensor) -> list[str]:
    known = trained.isfinite().all(1)
    wrong = problem.margin() <= 0
    words = []
    for ok, failed in zip(known.tolist(), wrong.tolist(), strict=True):
        words.append("ok" if ok else "misclassified" if failed else "no distance: the input or its gradient is zero")
    return words


def _sentence(columns: dict[str, Tensor | list], copies: int) -> str:
    ratio = torch.as_tensor(columns["ratio_l2"])
    ratio = ratio[ratio.isfinite()]
    if not len(ratio):
        return "No example has a distance that could be compared."
    middle = float(ratio.median())
    words = "closer to the boundary than" if middle < 1 else "farther from the boundary than"
    return (
        f"Trained, the inputs lie a median {middle:.2g} times as far from the linearised boundary (l2) as in {copies} untrained copies: "
        f"training has put them {words} chance does."
    )
