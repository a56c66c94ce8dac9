"""Data as the questions read them: inputs and labels of equal length, out of whatever a user's object is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brittle.errors import InputError

LABELS = ("labels", "label", "y", "target", "targets")

Inputs = Tensor | dict[str, Tensor]


class Data(NamedTuple):
    """x: a tensor (N, ...) or keyword inputs by name; labels: (N,) int64."""

    x: Inputs
    labels: Tensor


def first(data: Data, limit: int | None) -> Data:
    """The first ``limit`` examples (all of them where there are fewer)."""
    if limit is None:
        return data
    if limit < 1:
        raise InputError("limit", "a number >= 1", limit, "ask for at least one example")
    x = {k: v[:limit] for k, v in data.x.items()} if isinstance(data.x, Mapping) else data.x[:limit]
    return Data(x, data.labels[:limit])


def as_data(value: object, limit: int | None = None, what: str = "data") -> Data:
    """Inputs and labels out of a pair, a mapping, a Dataset, or anything that yields batches such as a DataLoader.

    A mapping holds its labels under "labels", "label", "y" or "target"; what remains is the input: one tensor, or several
    that the model takes by keyword. At most ``limit`` examples are read.
    """
    if isinstance(value, Mapping):
        return first(_checked(*_split(value, what), what), limit)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2 and _is_array(value[1]):
        return first(_checked(value[0], value[1], what), limit)
    if isinstance(value, torch.utils.data.DataLoader):
        _refuse_shuffling(value, what)
        return _join((_pair(batch, what) for batch in value), limit, what)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return _join((_one(item, what) for item in _items(value, limit)), limit, what)
    if isinstance(value, Iterable) and not isinstance(value, (str, Tensor)):
        return _join((_pair(batch, what) for batch in value), limit, what)
    raise InputError(
        what,
        "a pair (x, labels), a mapping, a Dataset or a DataLoader",
        type(value).__name__,
        "return one of these",
    )


def tensor(value: object, what: str) -> Tensor:
    """An array or nested list as a tensor of numbers."""
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise InputError(
            what, "an array of numbers", f"{type(value).__name__} ({reason})", "convert it to a tensor or a NumPy array"
        ) from None


def _split(value: Mapping, what: str) -> tuple[object, object]:
    key = next((k for k in LABELS if k in value), None)
    rest = {k: v for k, v in value.items() if k != key}
    if key is None or not rest:
        raise InputError(
            what,
            f"inputs, and labels under one of {', '.join(LABELS)}",
            f"the keys {sorted(map(str, value))}",
            "rename them",
        )
    if len(rest) == 1:
        return next(iter(rest.values())), value[key]
    return rest, value[key]


def _checked(x: object, labels: object, what: str) -> Data:
    inputs: Inputs = (
        {str(k): tensor(v, f"{what}, input {k!r}") for k, v in x.items()}
        if isinstance(x, Mapping)
        else tensor(x, f"{what}, inputs")
    )
    marks = tensor(labels, f"{what}, labels")
    if marks.dim() == 2 and marks.shape[1] == 1:
        marks = marks[:, 0]
    for name, part in inputs.items() if isinstance(inputs, dict) else [("x", inputs)]:
        if marks.dim() != 1 or part.dim() < 1 or len(part) != len(marks):
            raise InputError(
                what,
                "one label per example, batch axis first",
                f"{name} of shape {tuple(part.shape)} with labels of shape {tuple(marks.shape)}",
                "make the counts equal and give class numbers, not one-hot rows",
            )
    if not len(marks):
        raise InputError(what, "at least one example", "none", "check how the data were selected")
    if marks.is_floating_point() and not bool((marks == marks.round()).all()):
        raise InputError(what, "whole class numbers as labels", f"{marks.dtype} with fractions", "give class numbers")
    return Data(inputs, marks.long())


def _pair(batch: object, what: str) -> tuple[object, object]:
    if isinstance(batch, Mapping):
        return _split(batch, what)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2:
        return batch[0], batch[1]
    raise InputError(what, "batches that are pairs (x, labels) or mappings", type(batch).__name__, "yield one of these")


def _one(item: object, what: str) -> tuple[object, object]:
    x, label = _pair(item, what)
    batch = lambda v: tensor(v, what)[None]
    return ({k: batch(v) for k, v in x.items()} if isinstance(x, Mapping) else batch(x)), batch(label)


def _join(pairs: Iterable[tuple[object, object]], limit: int | None, what: str) -> Data:
    parts: list[Data] = []
    for x, labels in pairs:
        parts.append(_checked(x, labels, what))
        if limit is not None and sum(len(p.labels) for p in parts) >= limit:
            break
    if not parts:
        raise InputError(what, "at least one example", "none", "check how the data were selected")
    try:
        return first(Data(_concatenate([p.x for p in parts]), torch.cat([p.labels for p in parts])), limit)
    except (RuntimeError, KeyError, TypeError) as reason:
        raise InputError(
            what, "examples of one shape", f"parts that do not join ({reason})", "resize or pad them to one shape"
        ) from None


def _concatenate(parts: list[Inputs]) -> Inputs:
    head = parts[0]
    if isinstance(head, dict):
        return {k: torch.cat([p[k] for p in parts if isinstance(p, dict)]) for k in head}
    return torch.cat([p for p in parts if isinstance(p, Tensor)])


def _refuse_shuffling(loader: torch.utils.data.DataLoader, what: str) -> None:
    if isinstance(loader.sampler, torch.utils.data.RandomSampler):
        raise InputError(
            what,
            "the same examples in the same order each time",
            "a DataLoader that shuffles",
            "build it with shuffle=False",
        )


def _items(dataset: Any, limit: int | None) -> Iterator[object]:
    """Only as many items as are asked for: each may be an image read from disk."""
    count = len(dataset)
    return (dataset[i] for i in range(count if limit is None else min(count, max(limit, 1))))


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__") or (isinstance(value, (list, tuple)))
