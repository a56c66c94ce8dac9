"""Which property of the output must survive: rows that are linear in the logits.

The margin is the smallest row (for top-k: the k-th smallest), in logit units; the property holds where it is > 0.
Attacks lower it, bounds bound it from below, probabilities count its sign: nobody else knows about labels.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp

from brittle.errors import InputError

PIECE = 2**22  # entries of the logits whose derivatives :func:`matrix` takes at once, 32 MB


class Specification(Protocol):
    """``rows(logits (N, C), labels (N,)) -> (N, R)``, affine in the logits; the margin is the ``rank``-th smallest row."""

    @property
    def rank(self) -> int: ...
    def rows(self, logits: Tensor, labels: Tensor) -> Tensor: ...
    def take(self, indices: Tensor) -> "Specification": ...
    def check(self, labels: Tensor, outputs: int) -> None: ...
    def facts(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Untargeted:
    """The label keeps winning: rows ``logit of the label - logit of j`` for every other class j. The default.

    >>> Untargeted().rows(torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0]))
    tensor([[2.0000, 2.5000]])
    """

    rank: int = 1

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        rivals = torch.arange(logits.shape[1] - 1, device=logits.device)[None, :]
        rivals = rivals + (rivals >= labels[:, None])
        return logits.gather(1, labels[:, None]) - logits.gather(1, rivals)

    def take(self, indices: Tensor) -> "Untargeted":
        return self

    def check(self, labels: Tensor, outputs: int) -> None:
        if outputs < 2:
            raise InputError("specification", "at least two outputs", f"{outputs}", "use spec=bt.Threshold(0.0)")
        _labels_below(labels, outputs)

    def facts(self) -> dict[str, object]:
        return {"specification": "Untargeted"}


@dataclass(frozen=True)
class TopK:
    """The label stays among the k largest logits: the k-th smallest of the untargeted rows is > 0."""

    k: int

    @property
    def rank(self) -> int:
        return self.k

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return Untargeted().rows(logits, labels)

    def take(self, indices: Tensor) -> "TopK":
        return self

    def check(self, labels: Tensor, outputs: int) -> None:
        if not 1 <= self.k < outputs:
            raise InputError("TopK.k", f"1 <= k < {outputs} outputs", self.k, "choose a smaller k")
        _labels_below(labels, outputs)

    def facts(self) -> dict[str, object]:
        return {"specification": "TopK", "k": self.k}


@dataclass(frozen=True, eq=False)
class Targeted:
    """The label keeps beating the class ``target`` (one class, or one per example): a single row. Other classes may win."""

    target: int | Tensor
    rank: int = 1

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.gather(1, labels[:, None]) - logits.gather(1, self._targets(labels)[:, None])

    def take(self, indices: Tensor) -> "Targeted":
        return (
            replace(self, target=self.target[indices.to(self.target.device)])
            if isinstance(self.target, Tensor) and self.target.dim()
            else self
        )

    def check(self, labels: Tensor, outputs: int) -> None:
        _labels_below(labels, outputs)
        if isinstance(self.target, Tensor) and self.target.dim() and self.target.shape != labels.shape:
            raise InputError(
                "Targeted.target",
                f"one class, or shape {tuple(labels.shape)}",
                tuple(self.target.shape),
                "give one target per example",
            )
        targets = self._targets(labels)
        if bool(((targets < 0) | (targets >= outputs)).any()):
            raise InputError(
                "Targeted.target", f"classes 0..{outputs - 1}", targets.tolist()[:5], "correct the targets"
            )
        if bool((targets == labels).any()):
            raise InputError(
                "Targeted.target", "a class other than the label", "the label itself", "choose another target"
            )

    def facts(self) -> dict[str, object]:
        value = self.target.tolist() if isinstance(self.target, Tensor) else self.target
        return {"specification": "Targeted", "target": value}

    def _targets(self, labels: Tensor) -> Tensor:
        return torch.as_tensor(self.target, dtype=torch.long, device=labels.device).expand_as(labels)


@dataclass(frozen=True)
class Threshold:
    """One logit z that must stay on its side of ``threshold``: ``z - t > 0`` for label 1, ``t - z > 0`` for label 0."""

    threshold: float = 0.0
    rank: int = 1

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (2 * labels[:, None] - 1).to(logits.dtype) * (logits - self.threshold)

    def take(self, indices: Tensor) -> "Threshold":
        return self

    def check(self, labels: Tensor, outputs: int) -> None:
        if outputs != 1:
            raise InputError("specification", "one output for Threshold", f"{outputs} outputs", "leave spec out")
        _labels_below(labels, 2)

    def facts(self) -> dict[str, object]:
        return {"specification": "Threshold", "threshold": self.threshold}


def matrix(spec: Specification, labels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """The rows as ``coefficients (R, N, C)`` and ``offsets (R, N)`` in float64, read off the affine function ``rows`` itself.

    The coefficients are its derivatives: differences of its values would carry the rounding of the offsets.
    """
    count, float64 = len(labels), {"dtype": torch.float64, "device": labels.device}
    units, examples = torch.eye(outputs, **float64), torch.arange(count, device=labels.device)
    columns = []
    for some in units.split(max(1, PIECE // max(1, count * outputs))):  # every example once for each of these logits
        again = examples.repeat(len(some))
        rows, tangents = partial(spec.take(again).rows, labels=labels[again]), some.repeat_interleave(count, 0)
        columns.append(jvp(rows, (torch.zeros_like(tangents),), (tangents,))[1].reshape(len(some), count, -1))
    offsets = spec.rows(torch.zeros(count, outputs, **float64), labels).T
    return torch.cat(columns).permute(2, 1, 0).contiguous(), offsets


def margin(rows: Tensor, rank: int) -> Tensor:
    """The ``rank``-th smallest row, shape (N,). Monotone in every row, so lower rows give a lower margin.

    >>> margin(torch.tensor([[2.0, -1.0, 5.0]]), 2)
    tensor([2.])
    """
    return rows.amin(1) if rank == 1 else rows.kthvalue(rank, 1).values


def _labels_below(labels: Tensor, count: int) -> None:
    if bool(((labels < 0) | (labels >= count)).any()):
        worst = int(labels.max()) if int(labels.max()) >= count else int(labels.min())
        raise InputError(
            "labels",
            f"classes 0..{count - 1} (the model has {count} outputs)",
            worst,
            "correct the labels or the model's last layer",
        )
