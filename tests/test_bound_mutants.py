"""Deliberate mistakes in the bounds: each must be caught by a law, or the laws are worth nothing."""

import dataclasses
import importlib
from collections.abc import Callable
from math import inf

import pytest

import bound_laws
import test_relaxation
import test_support
from brittle import backward, intervals, norms, ops, planes, relaxation
from brittle.bounds import _concrete

crown_file, ibp_file = (importlib.import_module(f"brittle.bounds.{name}") for name in ("crown", "ibp"))
CLEAN = {
    "support": norms.support,
    "intercepts": planes.intercepts,
    "planes": planes.planes,
    "transposed": relaxation.transposed,
    "_pool_extreme": planes._pool_extreme,
    "intersect": backward.intersect,
    "image": intervals.image,
    "parameter_part": intervals.parameter_part,
    "inner": relaxation.inner,
}
crown = lambda problem: crown_file.crown(problem)
ibp = lambda problem: ibp_file.ibp(problem)


def offset_times_nine_tenths(function, slope, low, high):
    least, most = CLEAN["intercepts"](function, slope, low, high)
    return least, 0.9 * most


def no_touching_points(function, slope, low, high):
    return CLEAN["intercepts"](dataclasses.replace(function, bend=None), slope, low, high)


def swapped_slopes(state, node, lower_slope=None, upper_slope=None):
    plane = CLEAN["planes"](state, node, lower_slope, upper_slope)
    return dataclasses.replace(plane, lower_slope=plane.upper_slope, upper_slope=plane.lower_slope)


def dropped_path(state, node, rows, moving):
    pulled = CLEAN["transposed"](state, node, rows, moving)
    return dict(list(pulled.items())[:1])


def pool_offset(s, low, high, valid, least):
    return 0.9 * CLEAN["_pool_extreme"](s, low, high, valid, least)


def too_eager(state, name, at, low, high):
    CLEAN["intersect"](state, name, at, low + 0.3 * (high - low), high)


def ends_swapped(state, node):
    low, high = CLEAN["image"](state, node)
    return (low + high) / 2, high


def first_order_only(state, node, name):
    shrunk = intervals.State(state.graph, state.count, state.constants, state.wobble, known=state.known)
    middle = {k: (state.low[k] + state.high[k]) / 2 for k in state.low}
    shrunk.low, shrunk.high = middle, middle
    return CLEAN["parameter_part"](shrunk, node, name)


def without_range(a, p, radius, down=None, up=None):
    return CLEAN["support"](a, p, radius)


def too_small(a, p, radius, down=None, up=None):
    return 0.999 * CLEAN["support"](a, p, radius, down, up)


def wrong_side(a, p, radius, down=None, up=None):
    return CLEAN["support"](a, p, radius, up, down)


MUTANTS: dict[str, tuple[object, str, object, Callable[[], None]]] = {
    "relaxation offset x 0.9": (planes, "intercepts", offset_times_nine_tenths, lambda: bound_laws.below_brute_force(crown)),
    "relaxation offset x 0.9, law of planes": (
        planes, "intercepts", offset_times_nine_tenths, lambda: test_relaxation.test_planes_enclose_and_touch_for_any_slope("relu"),
    ),
    "no touching points": (
        planes, "intercepts", no_touching_points, lambda: test_relaxation.test_planes_enclose_and_touch_for_any_slope("tanh"),
    ),
    "slopes swapped": (crown_file, "planes", swapped_slopes, lambda: bound_laws.below_brute_force(crown)),
    "residual path dropped": (relaxation, "transposed", dropped_path, lambda: bound_laws.clean_at_radius_zero(crown)),
    "pooling offset x 0.9": (planes, "_pool_extreme", pool_offset, test_relaxation.test_max_pooling_planes_enclose_and_touch),
    "intermediate bound too tight": (backward, "intersect", too_eager, lambda: bound_laws.below_brute_force(crown)),
    "interval of an activation halved": (intervals, "image", ends_swapped, lambda: bound_laws.below_brute_force(ibp)),
    "second-order term missing": (
        intervals, "parameter_part", first_order_only, lambda: bound_laws.weights_of_two_layers_at_corners(ibp),
    ),
    "range missing": (norms, "support", without_range, lambda: bound_laws.exact_on_affine(crown, (1, 2, inf))),
    "support x 0.999": (norms, "support", too_small, lambda: test_support.test_without_a_range_it_is_the_dual_norm(2)),
    "rooms swapped": (norms, "support", wrong_side, lambda: bound_laws.exact_on_affine(crown, (2,))),
    "rooms of the box halved": (_concrete, "_room", lambda room: room / 2, lambda: bound_laws.exact_on_affine(crown, (inf,))),
    "dual norm swapped": (norms, "dual", lambda p: {1: 1, 2: 2, inf: inf}[p], lambda: bound_laws.exact_on_affine(crown, (1,))),
    "slack with the wrong sign": (backward, "gamma", lambda n: -1e-15 * n, lambda: bound_laws.sound_in_rationals(crown)),
    "slack of the boxes with the wrong sign": (backward, "gamma", lambda n: -1e-15 * n, lambda: bound_laws.sound_in_rationals(ibp)),
    "batch norm without its shift": (
        ops, "_batch_norm_scale", lambda a: (a["weight"][:, None, None], 0 * a["weight"][:, None, None]),
        lambda: bound_laws.clean_at_radius_zero(crown),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill(name: str, monkeypatch) -> None:
    where, attribute, mutant, law = MUTANTS[name]
    monkeypatch.setattr(where, attribute, mutant)
    with pytest.raises(AssertionError):
        law()
