"""What the network sees at one point: the span of the gradients of its logits, and how much of a way to another class lies in it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brittle import norms
from brittle.problem import NUMBERS, Problem
from brittle.spec import Specification


@dataclass(frozen=True)
class Logits:
    """Rows that are the logits themselves."""

    rank: int = 1

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits

    def take(self, indices: Tensor) -> Specification:
        return self

    def check(self, labels: Tensor, outputs: int) -> None:
        return None

    def facts(self) -> dict[str, object]:
        return {"specification": "Logits"}


def local_measures(problem: Problem, leaf: str, way: Tensor, rival: Tensor, outputs: int) -> dict[str, Tensor]:
    """(N,) each, from the gradients of the label's logit, of the rival's, and of the largest others, ``outputs`` in all.

    two_gradient    share of the way (N, D) inside the span of the label's and the rival's gradients
    row_space       share inside the row space of the Jacobian of the logits, centred over the chosen ones: their common mode decides nothing
    effective_rank  ``exp H(p)``, p the shares of the squared singular values of that Jacobian; stable_rank ``|J|_F^2 / |J|^2``
    dimensions      its numerical rank, which sets the chance level of row_space
    Cost: one forward and min(outputs, K) backward passes per example.
    """
    with torch.no_grad():
        logits = problem.logits()
    free = replace(problem, spec=Logits())
    which = _chosen(logits, problem.labels, rival, outputs)
    width = max(1, NUMBERS // (which.shape[1] * sum(v[0].numel() for v in problem.inputs.values())))
    parts = []
    for at in torch.arange(len(problem), device=problem.device).split(width):
        part = free.take(at)
        _, gradients = part.row_gradients({leaf: part.inputs[leaf]}, which[at])
        parts.append(_measure(gradients[leaf].flatten(2).double(), way[at].double()))
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _chosen(logits: Tensor, labels: Tensor, rival: Tensor, outputs: int) -> Tensor:
    """(N, M) logits to differentiate: the label's, the rival's, then the largest others. One output: that one."""
    if logits.shape[1] == 1:
        return torch.zeros(len(logits), 1, dtype=torch.long, device=logits.device)
    rival = torch.where(rival >= 0, rival, (labels + 1) % logits.shape[1])
    order = logits.double().scatter(1, rival[:, None], torch.inf).scatter(1, labels[:, None], torch.inf)
    rest = order.argsort(dim=1, descending=True, stable=True)[:, 2 : max(2, outputs)]
    return torch.cat([labels[:, None], rival[:, None], rest], 1)


def _measure(jacobian: Tensor, way: Tensor) -> dict[str, Tensor]:
    """jacobian (n, M, D), way (n, D)."""
    finite = jacobian.isfinite().flatten(1).all(1)
    jacobian = torch.where(finite[:, None, None], jacobian, 0.0)
    centred = jacobian - jacobian.mean(1, keepdim=True) if jacobian.shape[1] > 1 else jacobian
    two, _ = _share_inside(jacobian[:, :2], way)
    inside, singular = _share_inside(centred, way)
    energy = singular.square()
    whole = energy.sum(1, keepdim=True)
    tiny = torch.finfo(torch.float64).tiny  # a Jacobian of zeros has rank 0 by any count
    shares = energy / whole.clamp_min(tiny)
    return {
        "two_gradient": torch.where(finite, two, torch.nan),
        "row_space": torch.where(finite, inside, torch.nan),
        "effective_rank": torch.where(whole[:, 0] > 0, torch.special.entr(shares).sum(1).exp(), 0.0),
        "stable_rank": (whole / energy[:, :1].clamp_min(tiny))[:, 0],
        "dimensions": _above(singular, jacobian.shape[2]).sum(1).double(),
    }


def _share_inside(rows: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) length of the projection of the way onto the span of the rows, over its length; and the singular values."""
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    kept = (right @ way[:, :, None])[:, :, 0] * _above(singular, rows.shape[2])
    return torch.linalg.vector_norm(kept, dim=1) / norms.norm(way, 2).clamp_min(torch.finfo(way.dtype).tiny), singular


def _above(singular: Tensor, d: int) -> Tensor:
    """Singular values that are more than the rounding of gradients in single precision: 2^-23 sqrt(D) of the largest."""
    return singular > singular[:, :1] * 2.0**-23 * d**0.5
