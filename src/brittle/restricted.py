"""Changes inside a subspace, or orthogonal to it: the leaf becomes their coordinates, and every method works unchanged."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.region import Ball, Region
from brittle.section import Section
from brittle.subspace import Subspace

Inputs = Tensor | Mapping[str, Tensor]


class Restricted(nn.Module):
    """``module(x + coordinates @ basis)``: what moves is the coordinates. l2 lengths are kept, since the rows of the basis are orthonormal."""

    def __init__(self, module: Callable, bases: Mapping[str, Tensor], lone: bool) -> None:
        super().__init__()
        self.module, self.lone, self.names = module, lone, tuple(bases)
        for name, basis in bases.items():
            self.register_buffer(
                f"lift_{name}", basis.T.contiguous()
            )  # a linear layer, so that whoever checks proofs knows it

    def forward(self, **inputs: Tensor) -> object:
        changed = {k: v for k, v in inputs.items() if not k.endswith("coordinates")}
        for name in self.names:
            coordinates = inputs["coordinates" if self.lone else f"{name}_coordinates"]
            change = nn.functional.linear(coordinates, getattr(self, f"lift_{name}"))
            changed[name] = changed[name] + change.reshape(changed[name].shape)
        return self.module(changed["input"]) if self.lone else self.module(**changed)


def restrict(module: Callable, x: Inputs, region: Region) -> tuple[Callable, Inputs, dict[str, Ball]]:
    """The same question with every restricted ball as a ball of coordinates; all three as they are where none is restricted.

    The leaf ``"x"`` becomes ``"x.coordinates"`` and ``"x.NAME"`` becomes ``"x.NAME_coordinates"``, at zero; a parameter keeps its name
    behind ``param:module.``. For p = 2 without a range a ball of coordinates is all there is to it, exact up to the rounding of the basis
    to the dtype of the leaf. For p = 1 and inf, and with a range, the length and the range of the change itself are kept by a
    :class:`Section`: attacks work, bounds decline.

    Errors: InputError for p = 0, for parameters and for subspaces of other shapes.
    """
    chosen = {leaf: subspace for leaf, ball in region.items() if (subspace := _subspace(leaf, ball)) is not None}
    if not chosen:
        return module, x, dict(region)
    lone = isinstance(x, Tensor)
    inputs: dict[str, Tensor] = {"input": x} if isinstance(x, Tensor) else dict(x)
    key = lambda leaf: "input" if leaf == "x" else leaf.removeprefix("x.")
    bases, zeros, moved = {}, {}, {}
    for leaf, ball in region.items():
        if leaf not in chosen:
            fixed = leaf == "x" or leaf.startswith("x.")
            moved["x.input" if leaf == "x" else leaf if fixed else f"param:module.{leaf.removeprefix('param:')}"] = ball
            continue
        name = key(leaf)
        if name not in inputs:
            raise InputError(
                f"leaf {leaf!r}",
                f"an input among {', '.join(inputs)}",
                "another leaf",
                "restrict inputs, not parameters",
            )
        bases[name] = _basis(leaf, chosen[leaf], inputs[name])
        word = "coordinates" if lone else f"{name}_coordinates"
        zeros[word] = inputs[name].new_zeros(len(inputs[name]), len(bases[name]))
        moved[f"x.{word}"] = _of_coordinates(ball, bases[name], name, inputs[name])
    return Restricted(module, bases, lone), {**inputs, **zeros}, moved


def _subspace(leaf: str, ball: Ball) -> Subspace | None:
    if ball.within is None and ball.orthogonal_to is None:
        return None
    if ball.p == 0:
        raise InputError(
            f"restricted ball of leaf {leaf!r}",
            "p of 1, 2 or inf",
            "p=0",
            "ask with p=1, which prefers few features, or leave within and orthogonal_to out: which few features can change "
            "along a subspace is a combinatorial question that no method here answers",
        )
    return ball.within.one() if ball.within is not None else ball.orthogonal_to.complement()  # type: ignore[union-attr]


def _of_coordinates(ball: Ball, basis: Tensor, name: str, value: Tensor) -> Ball:
    """The ball as one of coordinates, with its section where the coordinates alone do not tell length and range."""
    section = Section(basis, ball.p, f"x.{name}", ball.low, ball.high)
    if bool(section.outside(value.new_zeros(len(value), len(basis)), value).any()):
        wide = value.double()
        raise InputError(
            f"leaf x.{name}" if name != "input" else "leaf 'x'",
            f"values inside low={ball.low}..high={ball.high}",
            f"values from {float(wide.min()):.6g} to {float(wide.max()):.6g}",
            "correct low and high, or put the normalisation inside the model",
        )
    exact = ball.p == 2 and ball.low is None and ball.high is None
    return replace(ball, low=None, high=None, within=None, orthogonal_to=None, section=None if exact else section)


def _basis(leaf: str, subspace: Subspace, value: Tensor) -> Tensor:
    features = value[0].numel()
    if subspace.features != features:
        raise InputError(
            f"subspace of leaf {leaf!r}", f"{features} features", subspace.features, "make it from the same inputs"
        )
    if subspace.dimension == 0:
        raise InputError(
            f"restricted ball of leaf {leaf!r}",
            "a subspace of at least one dimension",
            f"none ({subspace.rule})",
            "nothing can move in it",
        )
    basis = subspace.basis
    # rounding of the decomposition: a feature that is constant in the data would seem to move, and at the end of its range hold everything
    basis = torch.where(basis.abs() <= features * torch.finfo(basis.dtype).eps, 0.0, basis)
    return basis.to(device=value.device, dtype=value.dtype)
