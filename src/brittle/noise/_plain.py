"""Plain draws from a law, one example after the other, and how many of them break the property."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from brittle.laws import Law
from brittle.noise._design import rows_at
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.spec import margin

NUMBERS = 2**22  # numbers drawn at once: 32 MiB in float64 (folklore)
ROWS = 256  # draws per forward pass at most: past this the batch gains little on a CPU (folklore)


def points(
    question: Problem,
    i: int,
    laws: Mapping[str, Law],
    seed: int,
    draws: int,
    clipped: dict[str, float],
    around: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The perturbed points of example i in blocks of a size that depends on shapes only.

    Every block has a generator of its own, so that neither the batch nor memory decides what is drawn. ``clipped`` gathers
    by leaf the share of clipped coordinates, summed over draws. ``around`` (1, ...) by leaf: another point than the clean one.
    """
    one = question.take(torch.tensor([i]))
    whole = {**one.inputs, **one.centre}
    rows = max(1, min(ROWS, NUMBERS // max(1, sum(v[0].numel() for v in whole.values()))))
    for start in range(0, draws, rows):
        wanted = min(rows, draws - start)
        point = {}
        for leaf, law in laws.items():
            source = generator(seed, "monte_carlo", leaf, int(one.index[0]), start)
            centre = one.centre[leaf] if around is None else around[leaf]
            moved = law.perturb(centre[0], rows, source)[:wanted].to(centre)
            low, high = question.region[leaf].range(centre)
            inside = torch.minimum(torch.maximum(moved, low), high)
            clipped[leaf] += float((inside != moved).double().mean()) * wanted
            point[leaf] = inside
        yield point


def judge(question: Problem, i: int, point: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many of the points fail, and how many of these have logits that are not finite; halves what does not fit."""
    rows = len(next(iter(point.values())))
    try:
        logits, values = rows_at(question, torch.full((rows,), i), point)
    except (RuntimeError, MemoryError) as reason:
        if rows == 1 or not _out_of_memory(reason):
            raise
        halves = [{k: part for k, part in zip(point, parts)} for parts in zip(*(v.chunk(2) for v in point.values()))]
        counts = [judge(question, i, half) for half in halves]
        return sum(c[0] for c in counts), sum(c[1] for c in counts)
    broken = ~logits.isfinite().all(1)
    return int(((margin(values, question.spec.rank) <= 0) | broken).sum()), int(broken.sum())


def _out_of_memory(reason: Exception) -> bool:
    return isinstance(reason, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(reason)


def doubts_of(broken: Tensor, clipped: Mapping[str, float], laws: Mapping[str, Law]) -> tuple[str, ...]:
    doubts = []
    if bool((broken > 0).any()):
        doubts.append(
            f"logits under noise were not finite on {int((broken > 0).sum())} of {len(broken)} examples; "
            "such draws count as failures: check the range that the model can take"
        )
    for leaf, share in clipped.items():
        tenths = int(10 * share)  # in tenths, so that the sentence does not change from chunk to chunk
        if tenths:
            doubts.append(
                f"clipping to {laws[leaf].clip} changed more than {10 * tenths} % of the noisy values of {leaf!r}: "
                "the probability is that of the clipped law, not of the law named"
            )
    return tuple(doubts)
