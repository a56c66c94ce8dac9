"""Where does the network lose dimensions? The rank of its layers, seen four ways."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brittle import meter
from brittle.about import About
from brittle.activations import layer_names, recorded, replaced
from brittle.errors import InputError
from brittle.network import call
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Finding

ABOUT = About(
    promise="per layer: rank and effective rank of the Jacobian, rank of the response to tiny noise, principal components that the decision needs",
    reference="Feng et al., Rank diminishing in deep neural networks, NeurIPS 2022; the measures are ours where its text gives none",
    leaves=("input",),
    cost="(probes + perturbations) forward for each of the examples, and about log2(width) forward of all per layer",
)
KEPT = 0.95  # of the accuracy: the classification dimension of the reference


def rank_profile(
    problem: Problem,
    *,
    seed: int = 0,
    layers: str = "*",
    examples: int = 4,
    probes: int = 64,
    perturbations: int = 64,
    size: float = 1e-3,
) -> Finding:
    """Four measures of how many dimensions survive, layer by layer, in float64 (numerical ranks saturate in float32).

    ``rank``            numerical rank of the Jacobian from the input to the layer, restricted to ``probes`` random directions (all of them
                        where the input has no more features; else at most ``probes``, so a value equal to it means "at least")
    ``effective_rank``  ``exp(entropy of the squared singular values)`` of the same Jacobian: how many directions carry the energy
    ``noise_rank``      numerical rank of the layer's responses to ``perturbations`` Gaussian changes of length about ``size``: the reference's perturbed
                        principal components. Equal to ``rank`` inside one linear region, larger where the noise crosses kinks
    ``class_dimension`` fewest principal components (fitted on the problem's own examples) onto which the layer's output can be projected
                        with at least 95 % of the accuracy kept, found by bisection, which supposes that more components do not hurt

    A numerical rank counts singular values above ``max(shape) * eps * largest``. The first three are medians over the first
    ``examples`` inputs. The rank of a composition never exceeds that of its parts, so along a chain ``rank`` falls.

    ``value`` of the Finding is the independence deficit: the class whose logit is best explained by a sparse linear combination (at most
    three others, chosen greedily) of the other logits over the examples, with its R².

    layers : a name pattern (``"features.*"``). Errors: InputError for callables without layers, and for several inputs.

    >>> from brittle import Problem
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Linear(2, 5))
    >>> x = torch.rand(8, 6)
    >>> found = rank_profile(Problem(network, x, network(x).argmax(1)))
    >>> found.columns["rank"].tolist()
    [2.0, 2.0]
    """
    if list(problem.inputs) != ["x"]:
        raise InputError("rank_profile", 'one input "x"', ", ".join(problem.inputs), "wrap the model for one input")
    wide = problem.double()
    module = wide.network.quiet
    names = layer_names(module, layers)
    few = wide.take(torch.arange(min(examples, len(wide))))
    spectra = [_spectra(few, k, names, seed, probes, perturbations, size) for k in range(len(few))]
    features = _features(wide, names)
    order = [n for n in features if all(n in s for s in spectra)]
    middle = lambda k: torch.tensor([_median([s[n][k] for s in spectra]) for n in order], dtype=torch.float64)
    columns: dict[str, Tensor | list] = {
        "layer": order,
        "width": torch.tensor([features[n].flatten(1).shape[1] for n in order]),
        "rank": middle(0),
        "effective_rank": middle(1),
        "noise_rank": middle(2),
        "class_dimension": torch.tensor([_class_dimension(wide, n, features[n]) for n in order]),
    }
    return Finding(
        "rank_profile",
        "How many dimensions survive, layer by layer",
        columns,
        ("layer", "rank", "effective_rank", "class_dimension"),
        "dimensions",
        _sentence(columns),
        value=_deficit(wide),
    )


def _spectra(
    problem: Problem, k: int, names: tuple[str, ...], seed: int, probes: int, perturbations: int, size: float
) -> dict[str, tuple[float, float, float]]:
    """Layer -> rank, effective rank, noise rank at one example."""
    x = problem.inputs["x"][k : k + 1]
    count = x.numel()
    draw = generator(seed, "rank_profile", int(problem.index[k]))
    directions = torch.eye(count, dtype=x.dtype)
    if probes < count:
        directions = torch.linalg.qr(torch.randn(count, probes, generator=draw, dtype=x.dtype)).Q.T
    noise = torch.randn(perturbations, count, generator=draw, dtype=x.dtype) * (size / count**0.5)
    slopes = _slopes(problem, x, directions.to(x.device).reshape(-1, *x.shape[1:]), names)
    with torch.no_grad(), recorded(problem.network.quiet, names) as outputs:  # type: ignore[arg-type]
        _forward(problem, x + noise.to(x.device).reshape(-1, *x.shape[1:]))
    spread = {n: torch.linalg.svdvals(v.flatten(1) - v.flatten(1).mean(0)) for n, v in outputs.items()}
    singular = {n: torch.linalg.svdvals(v.flatten(1)) for n, v in slopes.items()}
    rank = lambda s, shape: float((s > max(shape) * torch.finfo(s.dtype).eps * s.max()).sum()) if s.numel() else 0.0
    # responses are differences of numbers of the size of the outputs, so their rounding is relative to these
    floor = {n: v.abs().max() * max(v.flatten(1).shape) * torch.finfo(v.dtype).eps for n, v in outputs.items()}
    return {
        n: (rank(singular[n], slopes[n].flatten(1).shape), _effective(singular[n]), float((spread[n] > floor[n]).sum()))
        for n in singular
        if n in spread
    }


def _slopes(problem: Problem, x: Tensor, directions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Layer -> (probes, width): derivatives along every direction, all in one forward pass with dual numbers."""
    with torch.no_grad(), forward_ad.dual_level(), recorded(problem.network.quiet, names) as outputs:  # type: ignore[arg-type]
        try:
            _forward(problem, forward_ad.make_dual(x.expand_as(directions).contiguous(), directions))
        except NotImplementedError as reason:
            raise InputError(
                "rank_profile",
                "operations with forward derivatives",
                str(reason).split("\n")[0][:120],
                "choose layers before it",
            ) from None
        slopes = {n: forward_ad.unpack_dual(v).tangent for n, v in outputs.items()}
        return {n: (torch.zeros_like(outputs[n]) if t is None else t).clone() for n, t in slopes.items()}


def _forward(problem: Problem, x: Tensor) -> Tensor:
    meter.count(forward=len(x))
    return problem.network.run(lambda: call(problem.network.quiet, x))  # type: ignore[return-value]


def _effective(singular: Tensor) -> float:
    """``exp H(p)`` with p the shares of the squares; 0 for a zero matrix."""
    energy = singular.square()
    if not bool(energy.sum() > 0):
        return 0.0
    share = energy / energy.sum()
    return float(torch.special.entr(share).sum().exp())


def _features(problem: Problem, names: tuple[str, ...]) -> dict[str, Tensor]:
    with torch.no_grad(), recorded(problem.network.quiet, names) as outputs:  # type: ignore[arg-type]
        _forward(problem, problem.inputs["x"])
    return {n: v for n, v in outputs.items() if v.shape[0] == len(problem)}


def _class_dimension(problem: Problem, name: str, features: Tensor) -> int:
    """The least k whose first k principal components keep 95 % of the accuracy; the full width where none does."""
    rows = features.flatten(1)
    mean = rows.mean(0)
    basis = torch.linalg.svd(rows - mean, full_matrices=False).Vh
    needed = KEPT * float((problem.margin() > 0).double().mean())
    low, high = 0, len(basis)
    while low < high:
        k = (low + high) // 2
        if _accuracy(problem, name, _onto(mean, basis[:k])) >= needed:
            high = k
        else:
            low = k + 1
    return high


def _onto(mean: Tensor, basis: Tensor) -> Callable[[Tensor], Tensor]:
    def project(output: Tensor) -> Tensor:
        centred = output.flatten(1) - mean
        return (mean + (centred @ basis.T) @ basis).reshape(output.shape)

    return project


def _accuracy(problem: Problem, name: str, change: Callable[[Tensor], Tensor]) -> float:
    with torch.no_grad(), replaced(problem.network.quiet, {name: change}):  # type: ignore[arg-type]
        return float((problem.margin() > 0).double().mean())


def _deficit(problem: Problem) -> str:
    """The logit that a few of the others explain best."""
    with torch.no_grad():
        logits = problem.logits().cpu()
    if logits.shape[1] < 3 or len(logits) <= logits.shape[1]:
        return ""
    centred = logits - logits.mean(0)
    scores = [_explained(centred, k) for k in range(logits.shape[1])]
    best = max(range(len(scores)), key=scores.__getitem__)
    return f"logit {best} from three others: R² {scores[best]:.2f} (median over classes {_median(scores):.2f})"


def _explained(centred: Tensor, k: int, most: int = 3) -> float:
    """R² of column k by at most three others, each chosen as the one that fits what is left best."""
    target, chosen = centred[:, k], []
    residual = target
    for _ in range(min(most, centred.shape[1] - 1)):
        fit = (centred.T @ residual).abs() / centred.norm(dim=0).clamp_min(torch.finfo(centred.dtype).tiny)
        fit[[k, *chosen]] = -1
        chosen.append(int(fit.argmax()))
        basis = torch.linalg.qr(centred[:, chosen]).Q
        residual = target - basis @ (basis.T @ target)
    whole = float(target.square().sum())
    return 1 - float(residual.square().sum()) / whole if whole > 0 else 0.0


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def _sentence(columns: dict) -> str:
    if not columns["layer"]:
        return "No layer returned a tensor with one row per example."
    rank, needed = columns["effective_rank"], columns["class_dimension"]
    fall = [(float(a - b), n) for a, b, n in zip(rank, rank[1:], columns["layer"][1:], strict=False)]
    worst = max(fall, default=(0.0, columns["layer"][0]))
    last = float(rank[-1])
    return (
        f"The effective rank falls from {float(rank[0]):.3g} to {last:.3g}; most is lost at layer {worst[1] or 'itself'!r}. "
        f"The decision needs {int(needed[0])} principal components of the first layer and {int(needed[-1])} of the last."
    )
