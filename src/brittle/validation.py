"""What a question must fulfil before it is asked: labels, inputs, leaves and ranges, each refusal in one sentence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.region import Ball, Region


def as_labels(labels: object) -> Tensor:
    """Labels as integers of shape (N,)."""
    try:
        value = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            "labels", "integers of shape (N,)", type(labels).__name__, "pass a tensor of class numbers"
        ) from None
    if value.dtype.is_floating_point and not bool((value == value.round()).all()):
        raise InputError("labels", "integers of shape (N,)", value.dtype, "pass class numbers, not scores")
    return value.long()


def check_inputs(inputs: Mapping[str, Tensor], labels: Tensor) -> None:
    """Tensors, as many examples as labels, at least one, finite."""
    if labels.dim() != 1:
        raise InputError("labels", "shape (N,)", tuple(labels.shape), "pass one class number per example")
    if not len(labels):
        raise InputError("x", "at least one example", "an empty batch", "check how the data were selected")
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise InputError(name, "a torch tensor", type(value).__name__, "convert it with torch.as_tensor")
        if value.dim() < 1 or len(value) != len(labels):
            raise InputError(
                name,
                f"{len(labels)} examples, as many as labels",
                tuple(value.shape),
                "keep the batch axis first and the counts equal",
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            bad = (~value.isfinite()).reshape(len(value), -1).any(1).nonzero()[:, 0].tolist()
            raise InputError(name, "finite values", f"NaN or infinity in examples {bad[:5]}", "clean the data first")


@contextmanager
def one_sentence(inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Whatever a module raises on its own inputs, as an InputError; the exception itself stays attached as the cause.

    Running out of memory passes: a caller with a smaller batch may still succeed.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as reason:  # user code decides what can go wrong here
        if is_out_of_memory(reason):
            raise
        shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in inputs.items())
        first = (str(reason).strip().splitlines() or ["no message"])[0][:160].rstrip(". ")
        raise InputError(
            "model",
            f"logits for {shapes}",
            f"{type(reason).__name__}: {first}",
            "give inputs of the shape and dtype of its weights, and a model that takes any batch size",
        ) from reason


def is_out_of_memory(reason: Exception) -> bool:
    """Whether an exception says that memory ran out; torch has a type for it on some devices only."""
    if isinstance(reason, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(reason).lower()
    return "out of memory" in text or "can't allocate" in text or "not enough memory" in text


def check_region(region: Region, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Every leaf (which :func:`brittle.leaves.expand` has found) is unambiguous, can move, and lies inside its valid range."""
    for leaf, ball in region.items():
        name = leaf.removeprefix("param:")
        if leaf in inputs and leaf in parameters:
            raise InputError(
                "region",
                "an unambiguous leaf",
                f"{leaf!r}, an input and a parameter",
                f'write "param:{leaf}" or rename',
            )
        value = inputs[leaf] if leaf in inputs else parameters[name]
        if not value.is_floating_point():
            raise InputError(
                f"leaf {leaf!r}",
                "a floating-point tensor",
                value.dtype,
                "move an embedding instead, or cast it to float",
            )
        if ball.groups == "channels" and value.dim() < 3:
            raise InputError(
                f"leaf {leaf!r}",
                "images (batch, channel, ...) for groups='channels'",
                tuple(value.shape),
                "leave groups out",
            )
        _check_range(leaf, ball, value, value.shape[1:] if leaf in inputs else value.shape)
        _check_unit(leaf, ball, value.shape)


def _check_range(leaf: str, ball: Ball, value: Tensor, example: torch.Size) -> None:
    low, high = ball.exact_range(value)
    try:
        if torch.broadcast_shapes(low.shape, high.shape, example) != example:
            raise RuntimeError
    except RuntimeError:
        raise InputError(
            f"range of leaf {leaf!r}",
            f"something that broadcasts to {tuple(example)}",
            f"{tuple(low.shape)} and {tuple(high.shape)}",
            "give one bound, or one per feature",
        ) from None
    wide = value.to(torch.float64)
    if bool(((wide < low) | (wide > high)).any()):
        raise InputError(
            f"leaf {leaf!r}",
            f"values inside low={_brief(ball.low)}..high={_brief(ball.high)}",
            f"values from {float(wide.min()):.6g} to {float(wide.max()):.6g}",
            "correct low and high, or put the normalisation inside the model",
        )


def _check_unit(leaf: str, ball: Ball, shape: torch.Size) -> None:
    given = torch.as_tensor(0.0 if ball.unit is None else ball.unit).shape
    try:
        fits = torch.broadcast_shapes(given, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        do = "give one number, or one for each entry"
        raise InputError(f"unit of leaf {leaf!r}", f"something that broadcasts to {tuple(shape)}", tuple(given), do)


def _brief(bound: float | Tensor | None) -> str:
    return (
        "-"
        if bound is None
        else f"<tensor {tuple(bound.shape)}>"
        if isinstance(bound, Tensor) and bound.numel() > 1
        else f"{float(bound):g}"
    )
