"""What a diagnostic about weights assumes where the region names none: every weight moves by a part of itself."""

from math import inf

from brittle.problem import Problem
from brittle.region import Ball


def parameter_leaves(problem: Problem) -> list[str]:
    """The moving leaves that are parameters."""
    return [leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None]


def relative_balls(problem: Problem, radius: float) -> dict[str, Ball]:
    """A ball for every tensor of two or more axes: each of its entries moves by ``radius`` of itself; {} for a mere callable.

    Such a ball is the same question whatever one layer of a ReLU network is scaled by against the next. Biases and normalisation stay.
    """
    weights = [n for n, v in problem.network.parameters().items() if v.dim() > 1 and v.is_floating_point()]
    ball = Ball(p=inf, radius=radius, relative="element")
    return {f"param:{name}" if name in problem.inputs else name: ball for name in weights}


def size_in_words(p: float, relative: str | None = None) -> str:
    """The unit of a radius.

    >>> size_in_words(inf), size_in_words(2, "rms")
    ('in l-inf', "of the layer's rms, in l2")
    """
    of = {None: "", "element": "of each entry, ", "rms": "of the layer's rms, "}[relative]
    return f"{of}in l{'-inf' if p == inf else f'{p:g}'}"
