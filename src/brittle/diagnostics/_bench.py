"""What faults of the weights are measured on: one set of examples, exchangeable weights, and what was right before."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from brittle.diagnostics._weights import Exchange
from brittle.problem import Problem
from brittle.spec import margin


@dataclass(frozen=True, eq=False)
class Bench:
    """What every fault is measured on: exchangeable weights, the clean predictions and accuracy, and the median size of a clean margin."""

    problem: Problem
    weights: Mapping[str, Tensor]
    exchange: Exchange
    predicted: Tensor
    clean: float
    scale: float

    @staticmethod
    def of(problem: Problem, weights: Mapping[str, Tensor]) -> "Bench":
        exchange = Exchange.of(problem, weights)
        logits = exchange.logits({})
        margins = _margins(problem, problem.spec.rows(logits, problem.labels)).double()
        scale = float(margins.abs().median()) or 1.0
        return Bench(problem, weights, exchange, _decided(logits), float((margins > 0).double().mean()), scale)

    def measure(self, changed: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy, agreement with the clean predictions, and the smooth count of failures, with these weights in place."""
        logits = self.exchange.logits(changed)
        rows = self.problem.spec.rows(logits, self.problem.labels)
        return {
            "accuracy": float((_margins(self.problem, rows) > 0).double().mean()),
            "agreement": float((_decided(logits) == self.predicted).double().mean()),
            "failures": float(self.soft_failures(rows).double().mean()),
        }

    def soft_failures(self, rows: Tensor) -> Tensor:
        """(N,) ``sigmoid(-margin / median |clean margin|)``: bounded, so that examples already lost do not lead a search as they do
        under the cross-entropy."""
        return torch.sigmoid(-_margins(self.problem, rows) / self.scale)


def _decided(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def _margins(problem: Problem, rows: Tensor) -> Tensor:
    return margin(rows, problem.spec.rank)


def cross_entropy(rows: Tensor) -> Tensor:
    return softplus(torch.logsumexp(-rows, 1))
