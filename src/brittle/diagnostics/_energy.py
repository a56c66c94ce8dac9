"""How much of a direction of the input reaches a layer: Jacobians from the input to every layer, whole or sketched."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from brittle.activations import recorded
from brittle.problem import NUMBERS, Problem
from brittle.randomness import generator


def jacobians(one: Problem, leaf: str, names: tuple[str, ...], probes: int, exact: int, seed: int) -> dict[str, Tensor]:
    """Layer -> rows (M, D) whose span is the row space of the Jacobian from the input of one example to that layer.

    Up to ``exact`` input features by forward derivatives along all of them; else, and where an operation has no forward
    derivative, ``probes`` random combinations of the layer's outputs (all outputs, where they are fewer): a range finder.
    """
    if one.inputs[leaf].numel() <= exact:
        try:
            return _whole(one, leaf, names)
        except (NotImplementedError, RuntimeError):  # no forward derivative of some operation
            pass
    return _sketched(one, leaf, names, probes, seed)


def kept(rows: Tensor, way: Tensor, mass: float) -> tuple[float, int]:
    """``|P way|^2 / |way|^2``, P onto the leading right singular vectors that carry the share ``mass`` of the squares; their number.

    By the eigenvectors of the smaller Gram matrix: what is left out lies far above the digits that squaring loses.
    """
    tall = rows.shape[0] > rows.shape[1]
    energy, vectors = torch.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
    energy, seen = energy.flip(0).clamp_min(0), (vectors.T @ (way if tall else rows @ way)).flip(0).square()
    whole = energy.cumsum(0)
    if not bool(whole[-1] > 0):
        return 0.0, 0
    count = int((whole < mass * whole[-1] * (1 - 1e-12)).sum()) + 1
    inside = seen[:count] if tall else seen[:count] / energy[:count]
    return float(inside.sum() / way.square().sum()), count


def _whole(one: Problem, leaf: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    x = one.inputs[leaf]
    units = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
    parts = []
    for some in units.split(max(1, NUMBERS // x.numel())):
        with torch.no_grad(), forward_ad.dual_level(), recorded(one.network.quiet, names) as outputs:  # type: ignore[arg-type]
            dual = forward_ad.make_dual(x.expand_as(some).contiguous(), some)
            one.take(torch.zeros(len(some), dtype=torch.long)).logits({leaf: dual})
            slopes = {n: (forward_ad.unpack_dual(v).tangent, v) for n, v in outputs.items()}
            parts.append(
                {n: (torch.zeros_like(v) if s is None else s).clone().flatten(1) for n, (s, v) in slopes.items()}
            )
    return {n: torch.cat([p[n] for p in parts]).T for n in parts[0]}


def _sketched(one: Problem, leaf: str, names: tuple[str, ...], probes: int, seed: int) -> dict[str, Tensor]:
    x = one.inputs[leaf]
    rows: dict[str, list[Tensor]] = {}
    for start in range(0, probes, step := max(1, NUMBERS // x.numel())):
        count = min(step, probes - start)
        leaves = x.repeat(count, *[1] * (x.dim() - 1)).detach().requires_grad_()
        with torch.enable_grad(), one.network.recurrent_safe(), recorded(one.network.quiet, names) as outputs:  # type: ignore[arg-type]
            one.take(torch.zeros(count, dtype=torch.long)).logits({leaf: leaves})
            for name, value in outputs.items():
                if not value.requires_grad or len(value) != count:
                    continue
                mix = _mixture(value, start, probes, seed, int(one.index[0]), name)
                (slope,) = torch.autograd.grad(value, leaves, mix, retain_graph=True, allow_unused=True)
                rows.setdefault(name, []).append(torch.zeros_like(leaves) if slope is None else slope)
    return {n: torch.cat(v).flatten(1).detach() for n, v in rows.items()}


def _mixture(value: Tensor, start: int, probes: int, seed: int, example: int, name: str) -> Tensor:
    """Rows ``start`` and on of the probes: unit vectors where they are as many as the outputs, else Gaussian."""
    count, width = len(value), value[0].numel()
    if width <= probes:
        mix = torch.zeros(count, width, dtype=value.dtype)
        inside = min(count, width - start)
        if inside > 0:
            mix[torch.arange(inside), start + torch.arange(inside)] = 1
    else:
        mix = torch.randn(
            count, width, generator=generator(seed, "compression_layers", name, example, start), dtype=value.dtype
        )
    return mix.reshape(value.shape).to(value.device)
