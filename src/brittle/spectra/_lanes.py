"""Vector registers as Numba types: W doubles or 2 W singles, one per shift, that LLVM keeps in one AVX-512, AVX or NEON register.

Plain Numba loops reach a quarter of the speed: LLVM does not find the register blocking by itself. The few operations here are all
that the kernel needs; in its code they read as the arithmetic that they are. The type of an array decides which register its numbers
are loaded to, so one kernel is compiled for both. Importing this file imports Numba.
"""

import operator
from typing import Any

import numba.extending
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils, config
from numba.extending import lower_builtin, models, register_model, type_callable

if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue] - numba fills it when it is imported
    raise ImportError("NUMBA_DISABLE_JIT is set, and vector registers exist in compiled code alone")

intrinsic: Any = numba.extending.intrinsic  # what it returns is called without the typing context that it declares
_FEATURES = get_host_cpu_features()
W = 8 if _FEATURES.get("avx512f") else 4 if _FEATURES.get("avx") else 2


class _Lanes(types.Type):
    def __init__(self, number, width, suffix, element) -> None:
        super().__init__(f"{number}x{width}")
        self.number, self.width, self.suffix = number, width, f"v{width}{suffix}"
        self.vector = ir.VectorType(element, width)


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


DOUBLES = _Lanes(types.float64, W, "f64", ir.DoubleType())
SINGLES = _Lanes(types.float32, 2 * W, "f32", ir.FloatType())
_REGISTERS = {types.float64: DOUBLES, types.float32: SINGLES}


def _converted(builder, value, vector):
    """A register's numbers in the precision of ``vector``."""
    if value.type == vector:
        return value
    return (builder.fpext if vector.element == ir.DoubleType() else builder.fptrunc)(value, vector)


def _address(context, builder, array_type, array, index, vector):
    base = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())


def _in_memory(array, lanes):
    """As many numbers as ``lanes`` holds, of the type of the array."""
    return ir.VectorType(_REGISTERS[array.dtype].vector.element, lanes.width)


def _size(array) -> int:
    return array.dtype.bitwidth // 8


@intrinsic
def width(typingctx, array):
    """Numbers of the array's type that a register holds."""

    def generate(context, builder, signature, args):
        return context.get_constant(types.intp, _REGISTERS[signature.args[0].dtype].width)

    return types.intp(array), generate


@intrinsic
def load(typingctx, array, index):
    """The register full of numbers of a flat array that begins at an index."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        at = _address(context, builder, kind, args[0], args[1], signature.return_type.vector)
        return builder.load(at, align=_size(kind))

    return _REGISTERS[array.dtype](array, types.intp), generate


@intrinsic
def load_as(typingctx, like, array, index):
    """As many numbers as a register of the type of ``like`` holds, converted to that type."""

    def generate(context, builder, signature, args):
        kind, lanes = signature.args[1], signature.return_type
        at = _address(context, builder, kind, args[1], args[2], _in_memory(kind, lanes))
        return _converted(builder, builder.load(at, align=_size(kind)), lanes.vector)

    return _REGISTERS[like.dtype](like, array, types.intp), generate


@intrinsic
def store(typingctx, array, index, lanes):
    """Write a register into a flat array from an index on, in the array's precision."""

    def generate(context, builder, signature, args):
        kind, vector = signature.args[0], _in_memory(signature.args[0], signature.args[2])
        at = _address(context, builder, kind, args[0], args[1], vector)
        builder.store(_converted(builder, args[2], vector), at, align=_size(kind))
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


def _spread(builder, scalar, lanes):
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.width), [0] * lanes.width)
    return builder.shuffle_vector(first, undefined, zeros)


@intrinsic
def spread(typingctx, like, scalar):
    """One number in every lane of a register of the type of ``like``, an array."""

    def generate(context, builder, signature, args):
        return _spread(builder, args[1], signature.return_type)

    lanes = _REGISTERS[like.dtype]
    return lanes(like, lanes.number), generate


@intrinsic
def spread_load(typingctx, array, index):
    """One number of a flat array in every lane."""

    def generate(context, builder, signature, args):
        base = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _spread(builder, builder.load(builder.gep(base, [args[1]])), signature.return_type)

    return _REGISTERS[array.dtype](array, types.intp), generate


def _declared(builder, name, count, lanes):
    function = ir.FunctionType(lanes.vector, [lanes.vector] * count)
    return cgutils.get_or_insert_function(builder.module, function, f"{name}.{lanes.suffix}")


@intrinsic
def plus_times(typingctx, c, a, b):
    """c + a b, fused where the machine can."""

    def generate(context, builder, signature, args):
        c, a, b = args
        return builder.call(_declared(builder, "llvm.fmuladd", 3, signature.return_type), [a, b, c])

    return c(c, c, c), generate


@intrinsic
def minus_times(typingctx, c, a, b):
    """c - a b, fused where the machine can."""

    def generate(context, builder, signature, args):
        c, a, b = args
        return builder.call(_declared(builder, "llvm.fmuladd", 3, signature.return_type), [builder.fneg(a), b, c])

    return c(c, c, c), generate


@intrinsic
def root(typingctx, a):
    """Square root."""

    def generate(context, builder, signature, args):
        return builder.call(_declared(builder, "llvm.sqrt", 1, signature.return_type), args)

    return a(a), generate


@intrinsic
def where_greater(typingctx, a, b, yes, no):
    """``yes`` in lanes where a > b, ``no`` elsewhere, also where either is NaN."""

    def generate(context, builder, signature, args):
        a, b, yes, no = args
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)

    return a(a, a, a, a), generate


@intrinsic
def any_greater(typingctx, a, b):
    """Whether a > b in some lane."""

    def generate(context, builder, signature, args):
        bits = ir.IntType(signature.args[0].width)
        mask = builder.bitcast(builder.fcmp_ordered(">", *args), bits)
        return builder.icmp_unsigned("!=", mask, ir.Constant(bits, 0))

    return types.boolean(a, a), generate


def _arithmetic(symbol, instruction) -> None:
    @type_callable(symbol)
    def typed(context):
        return lambda a, b: a if isinstance(a, _Lanes) and a == b else None

    @lower_builtin(symbol, _Lanes, _Lanes)
    def lowered(context, builder, signature, args):
        return getattr(builder, instruction)(*args)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)
