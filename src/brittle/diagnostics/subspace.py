"""How much of the network's sensitivity points off the data, and what would removing it gain?"""

from collections.abc import Callable
from math import inf, nan, sqrt

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.about import About
from brittle.activations import replaced
from brittle.errors import InputError
from brittle.problem import NUMBERS, Problem
from brittle.region import Ball
from brittle.reinitialised import reinitialised
from brittle.results import Bracket, Finding
from brittle.spec import margin
from brittle.stats import median_interval
from brittle.subspace import Subspace

ABOUT = About(
    promise="share of the margin gradient's energy off the data's subspace, beside chance and initialisation; the most that removing it can gain",
    reference="Melamed, Yehudai and Vardi, Adversarial examples exist in two-layer ReLU networks for low dimensional linear subspaces, NeurIPS 2023; laws derived in our notes",
    norms=(2,),
    leaves=("input",),
    cost="1 forward and backward, 2 forward and 1 backward for the untrained copies; 300 forward and 130 backward for each of the attacked examples",
)
COPIES = 8
SIZES, HALVINGS = (
    17,
    8,
)  # of the search along the universal direction: the answer is within 0.3 % of the size of a step of 78 %


def subspace(
    problem: Problem,
    *,
    seed: int = 0,
    subspace: Subspace | None = None,
    smallest: Callable[[Problem], Bracket],
    attacked: int = 10,
    initial: nn.Module | None = None,
    layer: str | None = None,
) -> Finding:
    """Split the gradient of the margin (row of the closest rival) into its parts on and off a subspace of the inputs.

    With P the projector on the subspace (dimension r of d) and g the gradient of the margin at x:

    ``share``           ``|(I - P) g|² / |g|²``
    ``chance``          ``(d - r) / d``: the share of an isotropic direction, and of a network at initialisation. Training adds energy on the
                        subspace, so a trained share below chance is no evidence of safety
    ``share_at_init``   the mean share over 8 untrained copies on some of the examples (one number), or that of ``initial``; absent where there are none
    ``removable_gain``  ``1 / sqrt(1 - share)``: inside one linear region ``1/full² = 1/on² + 1/off²``, so removing the whole off part
                        lengthens the smallest l2 perturbation by this factor at most
    ``off_gradient``, ``predicted``  ``|(I - P) g|`` and the frozen-noise law ``s0 sqrt(d - r) |dm/dh|``: the part of a dense first layer off the span of the data is
                        never trained by gradient descent (any loss, any depth above), so it is still the noise of scale s0 it was drawn with. ``ratio`` near 1 says so. s0 is the
                        standard deviation of the same layer in the untrained copies. Absent without a dense first layer
    ``on_radius``, ``off_radius``, ``radius``  smallest l2 perturbations found inside the subspace, orthogonal to it, and at all (upper ends, for the first ``attacked`` examples;
                        without a valid range, whatever the region says). ``inf``: none was found
    ``universal``       the size at which one direction, common to all examples and orthogonal to the subspace, breaks this example (either sign; of the first
                        ``attacked`` examples)

    subspace  default: the principal components with 99 % of the variance of the problem's own inputs; with few examples those are few
    attacked  examples whose three radii are searched, the first ones; 0 for none. Of 1,000 examples the default costs about five passes each
    initial   the network before training; layer : the dense first layer, where it is not found by itself

    ``value`` holds the median share at one dimension less, the choice, and one more. A local subspace has no radii.

    Errors: InputError where anything else than the one input ``"x"`` moves, or the subspace is of other inputs.

    >>> from brittle import Ball, Problem, diagnose
    >>> _ = torch.manual_seed(0)
    >>> network, plane = nn.Linear(4, 2), Subspace.given(torch.eye(4)[:2])
    >>> x = torch.rand(3, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    >>> found = diagnose(Problem(network, x, network(x).argmax(1), Ball(p=2, radius=1.0)), "subspace", subspace=plane)
    >>> found.columns["chance"].tolist()
    [0.5, 0.5, 0.5]
    """
    if list(problem.inputs) != ["x"] or problem.leaves not in ((), ("x",)):
        raise InputError("diagnostic subspace", 'the one input "x"', ", ".join(problem.leaves), "ask about the input")
    subspace = Subspace.pca(problem.inputs["x"]) if subspace is None else subspace
    wide, count = problem.double(), len(problem)
    name = layer or _dense(wide.network.quiet, subspace)
    clean, gradient, slope = _sensitivity(wide, name)
    x = wide.inputs["x"]
    off = subspace.off(gradient, x)
    share = _share(off, gradient)
    columns: dict[str, Tensor | list] = {
        "share": share,
        "chance": torch.full((count,), subspace.chance, dtype=torch.float64),
        "removable_gain": (1 - share).clamp_min(0).rsqrt(),
        "off_gradient": off.flatten(1).norm(dim=1),
    }
    copies = _untrained(problem, initial, seed)
    if copies:
        columns["share_at_init"] = torch.full((count,), _initial_share(problem, copies, subspace), dtype=torch.float64)
        columns |= _frozen(copies, name, slope, subspace, columns["off_gradient"])  # type: ignore[arg-type]
    columns |= _radii(problem, subspace, smallest, attacked)
    columns["universal"] = _universal(wide, off, subspace, attacked)
    columns["status"] = _status(clean, gradient)
    return Finding(
        "subspace",
        "Sensitivity off the data's subspace",
        {k: v.cpu() if isinstance(v, Tensor) else v for k, v in columns.items()},
        ("share", "removable_gain"),
        "factor in l2",
        _sentence(columns, subspace),
        value=_nearby(subspace, gradient, x),
        threshold=subspace.rule,
    )


def _sensitivity(problem: Problem, name: str | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Margins (N,), their gradients by the input, and the lengths (N,) of those by the output of the layer ``name``: one forward, one backward."""
    whole = problem.inputs["x"]
    found = []
    for at in torch.arange(len(problem)).split(max(1, NUMBERS // whole[0].numel())):
        part, added = problem.take(at), []

        def nudge(output: Tensor, added: list = added) -> Tensor:
            added.append(torch.zeros_like(output).requires_grad_())
            return output + added[-1]

        x = part.inputs["x"].detach().clone().requires_grad_()
        changes = {} if name is None else {name: nudge}
        with torch.enable_grad(), replaced(problem.network.quiet, changes), problem.network.recurrent_safe():  # type: ignore[arg-type]
            values = margin(part.rows({"x": x}), part.spec.rank)
            slopes = _slopes(values.sum(), [x, *added[:1]])
        found.append((values.detach(), slopes[0], slopes[1].flatten(1).norm(dim=1) if added else None))
    meter.count(backward=len(problem))
    values, gradients, lengths = zip(*found, strict=True)
    return torch.cat(values), torch.cat(gradients), None if lengths[0] is None else torch.cat(lengths)


def _slopes(total: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients, zero by what the total does not depend on."""
    if not total.requires_grad:
        return [torch.zeros_like(v) for v in leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, found, strict=True)]


def _share(off: Tensor, gradient: Tensor) -> Tensor:
    """NaN where the gradient is zero (the status says so)."""
    whole = gradient.flatten(1).square().sum(1)
    return torch.where(whole > 0, off.flatten(1).square().sum(1) / whole.clamp_min(torch.finfo(whole.dtype).tiny), nan)


def _untrained(problem: Problem, initial: nn.Module | None, seed: int) -> list[nn.Module]:
    if initial is not None:
        return [initial]
    try:
        return [reinitialised(problem.module, seed, k) for k in range(COPIES)]
    except InputError:  # an architecture that cannot say how it was initialised: the columns are absent
        return []


def _initial_share(problem: Problem, copies: list[nn.Module], subspace: Subspace) -> float:
    """The mean share over the copies; each is asked about some of the examples, so that all copies together cost about one pass each."""
    part = max(32, -(-len(problem) // len(copies)))
    means = []
    for k, network in enumerate(copies):
        at = torch.arange(k * part, k * part + part) % len(problem)
        some = problem.take(at.unique())
        fresh = Problem(network, some.x, some.labels).double()
        x = fresh.inputs["x"].detach().clone().requires_grad_()
        with torch.enable_grad(), fresh.network.recurrent_safe():
            (gradient,) = _slopes(_lead(fresh.logits({"x": x})).sum(), [x])
        meter.count(backward=len(some))
        means.append(_share(subspace.off(gradient, x), gradient).nanmean())
    return float(torch.stack(means).mean())


def _lead(logits: Tensor) -> Tensor:
    """(N,) how far the predicted class is ahead."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs()
    best = logits.topk(2, 1).values
    return best[:, 0] - best[:, 1]


def _frozen(
    copies: list[nn.Module], name: str | None, slope: Tensor | None, subspace: Subspace, measured: Tensor
) -> dict[str, Tensor]:
    """The frozen-noise law: predicted off gradient and measured over predicted; nothing without a dense first layer."""
    if name is None or slope is None:
        return {}
    scales = [c.get_parameter(f"{name}.weight").detach().double().std(correction=0) for c in copies]
    predicted = torch.stack(scales).mean().to(slope) * sqrt(subspace.codimension) * slope
    return {"predicted": predicted, "ratio": torch.where(predicted > 0, measured / predicted, nan)}


def _dense(module: object, subspace: Subspace) -> str | None:
    if not isinstance(module, nn.Module):
        return None
    layers = [(name, child) for name, child in module.named_modules() if not any(child.children())]
    weighted = [(name, child) for name, child in layers if any(True for _ in child.parameters(recurse=False))]
    if not weighted or not isinstance(weighted[0][1], nn.Linear) or weighted[0][1].in_features != subspace.features:
        return None
    return weighted[0][0]


def _radii(
    problem: Problem, subspace: Subspace, smallest: Callable[[Problem], Bracket], attacked: int
) -> dict[str, Tensor]:
    few = problem.take(torch.arange(min(attacked, len(problem))))
    out = {}
    for name, ball in (
        ("on_radius", {"within": subspace}), ("off_radius", {"orthogonal_to": subspace}), ("radius", {}),
    ):  # fmt: skip
        found = torch.full((len(problem),), nan, dtype=torch.float64)
        empty = {"on_radius": subspace.dimension == 0, "off_radius": subspace.codimension == 0}.get(name, False)
        if empty:
            found[: len(few)] = inf
        elif len(few) and subspace.points is None:
            asked = Problem(problem.module, few.x, few.labels, Ball(p=2, radius=1.0, **ball), few.spec, few.index)  # type: ignore[arg-type]
            found[: len(few)] = smallest(asked).upper
        out[name] = found
    return out


def _universal(problem: Problem, off: Tensor, subspace: Subspace, attacked: int) -> Tensor:
    """The mean off direction of all examples; per attacked example the first size on a geometric grid at which it breaks the property, then bisection."""
    direction = off.flatten(1).sum(0)  # every row is the gradient of a margin: going against it lowers all of them
    answer = torch.full((len(problem),), nan, dtype=torch.float64)
    few = problem.take(torch.arange(min(attacked, len(problem))))
    if subspace.points is not None or not len(few):
        return answer
    if subspace.codimension == 0 or not float(direction.norm()) > 0:
        answer[: len(few)] = inf
        return answer
    direction = (direction / direction.norm()).reshape(problem.inputs["x"].shape[1:])
    typical = float(problem.inputs["x"].flatten(1).norm(dim=1).median()) or 1.0
    sizes = typical * torch.logspace(-3, 1, SIZES, dtype=torch.float64)
    best = torch.full((len(few),), inf, dtype=torch.float64, device=off.device)
    for sign in (-1.0, 1.0):
        broken = torch.stack([_breaks(few, sign * float(s) * direction) for s in sizes])
        first = broken.double().argmax(0).cpu()
        low = torch.where(first > 0, sizes[(first - 1).clamp_min(0)], 0.0).to(off)
        high = torch.where(broken.any(0), sizes.to(off)[first.to(off.device)], inf)
        best = torch.minimum(best, _bisect(few, sign * direction, low, high))
    answer[: len(few)] = best.cpu()
    return answer


def _bisect(problem: Problem, direction: Tensor, low: Tensor, high: Tensor) -> Tensor:
    for _ in range(HALVINGS):
        middle = torch.where(high.isfinite(), (low + high) / 2, low)
        broken = _breaks(problem, middle.reshape(-1, *[1] * direction.dim()) * direction)
        high, low = torch.where(broken & high.isfinite(), middle, high), torch.where(broken, low, middle)
    return high


def _breaks(problem: Problem, change: Tensor) -> Tensor:
    return problem.margin({"x": problem.inputs["x"] + change}) <= 0


def _status(clean: Tensor, gradient: Tensor) -> list[str]:
    flat, wrong = (gradient.flatten(1) == 0).all(1), clean <= 0
    words = {(False, False): "ok", (True, False): "the gradient of the margin is zero"}
    return [words.get((f, w), "misclassified") for f, w in zip(flat.tolist(), wrong.tolist(), strict=True)]


def _nearby(subspace: Subspace, gradient: Tensor, x: Tensor) -> str:
    if subspace.points is not None:
        return ""
    shares = [(s.dimension, float(_share(s.off(gradient, x), gradient).nanmedian())) for s in subspace.nearby()]
    return "; ".join(f"dimension {r}: share {share:.3f}" for r, share in shares)


def _sentence(columns: dict, subspace: Subspace) -> str:
    if subspace.codimension == 0:
        return "The subspace is the whole space: nothing is off it."
    share, gain = columns["share"].nanmedian(), columns["removable_gain"].nanmedian()
    low, high = median_interval(columns["share"])
    initial = f", at initialisation {float(columns['share_at_init'][0]):.0%}" if "share_at_init" in columns else ""
    return (
        f"A median {float(share):.0%} (95 % interval {low:.0%} to {high:.0%}) of the margin gradient's energy points off the {subspace.dimension}-dimensional subspace "
        f"(by chance {subspace.chance:.0%}{initial}). Fixing this can make the network at most {float(gain) - 1:.0%} more robust in l2."
    )
