"""Changes inside a subspace, or orthogonal to it: the leaf becomes their coordinates, and every method works unchanged."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from brittle.errors import InputError
from brittle.region import Ball, Region
from brittle.subspace import Subspace

Inputs = Tensor | Mapping[str, Tensor]


class Restricted(nn.Module):
    """``module(x + coordinates @ basis)``: what moves is the coordinates. l2 lengths are kept, since the rows of the basis are orthonormal."""

    def __init__(self, module: Callable, bases: Mapping[str, Tensor], lone: bool) -> None:
        super().__init__()
        self.module, self.lone, self.names = module, lone, tuple(bases)
        for name, basis in bases.items():
            self.register_buffer(f"basis_{name}", basis)

    def forward(self, **inputs: Tensor) -> object:
        changed = {k: v for k, v in inputs.items() if not k.endswith("coordinates")}
        for name in self.names:
            coordinates = inputs["coordinates" if self.lone else f"{name}_coordinates"]
            change = coordinates @ getattr(self, f"basis_{name}")
            changed[name] = changed[name] + change.reshape(changed[name].shape)
        return self.module(changed["input"]) if self.lone else self.module(**changed)


def restrict(module: Callable, x: Inputs, region: Region) -> tuple[Callable, Inputs, dict[str, Ball]]:
    """The same question with every restricted ball as a ball of coordinates; all three as they are where none is restricted.

    The leaf ``"x"`` becomes ``"x.coordinates"`` and ``"x.NAME"`` becomes ``"x.NAME_coordinates"``, at zero; a parameter keeps its name
    behind ``param:module.``. Exact for p = 2 up to the rounding of the basis to the dtype of the leaf.

    Errors: InputError for p other than 2, for a range, for parameters and for subspaces of other shapes.
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
        moved[f"x.{word}"] = replace(ball, within=None, orthogonal_to=None)
    return Restricted(module, bases, lone), {**inputs, **zeros}, moved


def _subspace(leaf: str, ball: Ball) -> Subspace | None:
    if ball.within is None and ball.orthogonal_to is None:
        return None
    if ball.p != 2:
        raise InputError(
            f"restricted ball of leaf {leaf!r}",
            "p=2",
            f"p={ball.p}",
            "the l_p length of a change is that of its coordinates for p = 2 only",
        )
    if ball.low is not None or ball.high is not None:
        raise InputError(
            f"restricted ball of leaf {leaf!r}",
            "no valid range",
            "low or high",
            "leave the range out: coordinates have none",
        )
    return ball.within.one() if ball.within is not None else ball.orthogonal_to.complement()  # type: ignore[union-attr]


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
    return subspace.basis.to(device=value.device, dtype=value.dtype)
