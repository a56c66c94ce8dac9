"""A vector register as a Numba type: W doubles, one per shift, that LLVM keeps in one AVX-512, AVX or NEON register.

Plain Numba loops reach a quarter of the speed: LLVM does not find the register blocking by itself. The few operations here are all
that the kernel needs; in its code they read as the arithmetic that they are. Importing this file imports Numba.
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
_VECTOR = ir.VectorType(ir.DoubleType(), W)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(f"float64x{W}")


LANES = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _address(context, builder, array_type, array, index):
    base = context.make_array(array_type)(context, builder, array).data
    return builder.gep(base, [index])


@intrinsic
def load(typingctx, array, index):
    """W doubles of a flat array from an index on."""

    def generate(context, builder, signature, args):
        at = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(at, _VECTOR.as_pointer()), align=8)

    return LANES(array, types.intp), generate


@intrinsic
def store(typingctx, array, index, lanes):
    """Write W doubles into a flat array from an index on."""

    def generate(context, builder, signature, args):
        at = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(at, _VECTOR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), generate


def _spread(builder, scalar):
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), W), [0] * W)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


@intrinsic
def spread(typingctx, scalar):
    """One double in every lane."""

    def generate(context, builder, signature, args):
        return _spread(builder, args[0])

    return LANES(types.float64), generate


@intrinsic
def spread_load(typingctx, array, index):
    """One double of a flat array in every lane."""

    def generate(context, builder, signature, args):
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], args[0], args[1])))

    return LANES(array, types.intp), generate


def _declared(builder, name, count):
    function = ir.FunctionType(_VECTOR, [_VECTOR] * count)
    return cgutils.get_or_insert_function(builder.module, function, f"{name}.v{W}f64")


@intrinsic
def plus_times(typingctx, c, a, b):
    """c + a b, fused where the machine can."""

    def generate(context, builder, signature, args):
        c, a, b = args
        return builder.call(_declared(builder, "llvm.fmuladd", 3), [a, b, c])

    return LANES(LANES, LANES, LANES), generate


@intrinsic
def minus_times(typingctx, c, a, b):
    """c - a b, fused where the machine can."""

    def generate(context, builder, signature, args):
        c, a, b = args
        return builder.call(_declared(builder, "llvm.fmuladd", 3), [builder.fneg(a), b, c])

    return LANES(LANES, LANES, LANES), generate


@intrinsic
def root(typingctx, a):
    """Square root."""

    def generate(context, builder, signature, args):
        return builder.call(_declared(builder, "llvm.sqrt", 1), args)

    return LANES(LANES), generate


@intrinsic
def where_greater(typingctx, a, b, yes, no):
    """``yes`` in lanes where a > b, ``no`` elsewhere, also where either is NaN."""

    def generate(context, builder, signature, args):
        a, b, yes, no = args
        return builder.select(builder.fcmp_ordered(">", a, b), yes, no)

    return LANES(LANES, LANES, LANES, LANES), generate


@intrinsic
def any_greater(typingctx, a, b):
    """Whether a > b in some lane."""

    def generate(context, builder, signature, args):
        bits = ir.IntType(W)
        mask = builder.bitcast(builder.fcmp_ordered(">", *args), bits)
        return builder.icmp_unsigned("!=", mask, ir.Constant(bits, 0))

    return types.boolean(LANES, LANES), generate


def _arithmetic(symbol, instruction) -> None:
    @type_callable(symbol)
    def typed(context):
        return lambda a, b: LANES if a == LANES and b == LANES else None

    @lower_builtin(symbol, LANES, LANES)
    def lowered(context, builder, signature, args):
        return getattr(builder, instruction)(*args)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)
