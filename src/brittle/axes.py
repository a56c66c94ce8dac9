"""Examples on another axis than the first, as recurrent layers keep them: every operation said again with the examples in front.

A value of the module that holds the examples on axis b is one of our nodes with that axis moved to the front and the order of the
others kept. Which axis it is follows from the operations alone, never from a size that happens to match: an operation that
has no rule here is refused, since it might mix examples.
"""

from collections.abc import Mapping, Sequence
from math import prod

from brittle import ops
from brittle.errors import NotCertified
from brittle.graph import Batch, Ref

Arguments = Mapping[str, object]
MADE = {"zeros", "ones", "full"}  # made for every example out of nothing
MOVING = {"transpose", "permute", "stack"}  # may move the examples from the front
BINARY = {"add", "sub", "rsub", "mul", "div"}
LAST_AXIS = {"linear": ("weight", "bias"), "matmul": ("other",)}  # constants that act on the last axis
REDUCTIONS = {"mean", "sum"}


def front(axis: int, rank: int, examples: int) -> int:
    """An axis of the module's value, as an axis of ours."""
    axis %= rank
    return 0 if axis == examples else axis + (axis < examples)


def carried(op: str, arguments: Arguments, examples: int, rank: int, constants: Sequence[int]) -> tuple[str, dict, int]:
    """(op, arguments, axis of the examples in the module's result) of an operation on values with the examples on one axis.

    rank       of the values that vary, which all agree in it and in ``examples``
    constants  ranks of the other tensors
    """
    axis = lambda value, rank=rank: front(int(value), rank, examples)  # type: ignore[call-overload]
    before = lambda dims: sum(d % rank < examples for d in dims)
    refused = NotCertified(f"operation {op} mixes examples")
    if op in ("transpose", "permute"):
        return _permuted(arguments, examples, rank)
    if op in ops.ACTIVATIONS or op == "neg" or op in BINARY:
        if any(r > (rank - 1 - examples if op in BINARY else 0) for r in constants):
            raise refused
        return op, dict(arguments), examples
    if op in LAST_AXIS and examples < rank - 1 and _is_first(arguments, LAST_AXIS[op]):
        return op, dict(arguments), examples
    if op == "stack":
        dim = int(arguments["dim"]) % (rank + 1)  # type: ignore[call-overload]
        after = examples + (dim <= examples)
        return op, {**arguments, "dim": front(dim, rank + 1, after)}, after
    dims = arguments.get("dims" if op == "flip" else "dim")
    dims = dims if isinstance(dims, tuple) else (dims,)
    if any(not isinstance(d, int) or d % rank == examples for d in dims) or not dims:
        raise refused
    if op in ("slice", "index_select", "cat", "select", "softmax", "log_softmax"):
        return op, {**arguments, "dim": axis(dims[0])}, examples - (before(dims) if op == "select" else 0)
    if op == "flip":
        return op, {**arguments, "dims": tuple(axis(d) for d in dims)}, examples
    if op in REDUCTIONS:
        moved = {**arguments, "dim": tuple(axis(d) for d in dims)}
        return op, moved, examples - (0 if arguments["keepdim"] else before(dims))
    raise NotCertified(f"operation {op} with the examples on axis {examples}")


def _is_first(arguments: Arguments, constants: tuple[str, ...]) -> bool:
    return isinstance(arguments.get("input"), Ref) and all(
        isinstance(arguments.get(name), (Ref, type(None))) for name in constants
    )


def _permuted(arguments: Arguments, examples: int, rank: int) -> tuple[str, dict, int]:
    """Axes in another order. Where only the examples change places nothing is left to do: the permutation is the identity."""
    if "dims" in arguments:
        order = [int(d) % rank for d in arguments["dims"]]  # type: ignore[union-attr]
    else:
        order = list(range(rank))
        first, second = (int(arguments[name]) % rank for name in ("dim0", "dim1"))  # type: ignore[call-overload]
        order[first], order[second] = order[second], order[first]
    dims = (0, *(front(d, rank, examples) for d in order if d != examples))
    return "permute", {"input": arguments["input"], "dims": dims}, order.index(examples)


def regrouped(before: Sequence, after: Sequence, examples: int, is_examples) -> int | None:
    """Where a row-major regrouping leaves the axis of the examples: as many numbers in front of it as there were; None: nowhere."""
    fixed = lambda sizes: all(isinstance(s, int) for s in sizes)
    for place, size in enumerate(after):
        if is_examples(size) and fixed(after[:place]) and prod(after[:place]) == prod(before[:examples]):
            return place
    return None


def made(arguments: Arguments, examples: int) -> dict:
    """Arguments of ``zeros`` and its like with the examples in front."""
    size = arguments["size"]
    rest = tuple(s for place, s in enumerate(size) if place != examples)  # type: ignore[arg-type]
    return {**arguments, "size": (Batch(1), *rest)}
