"""What is typed after --region and --noise, read into balls and laws.

    --region NAME=P:RADIUS[@LEAF][,P:RADIUS@LEAF ...]      l2=2:1     eps=inf:8/255     joint=inf:0.03,inf:0.002@fc1.weight
    --noise  NAME=LAW[:clipped][@LEAF][,LAW@LEAF ...]                      rain=gaussian:0.1
             gaussian:SIGMA  ball:RADIUS[:P]  sphere:RADIUS[:P]  cube:RADIUS  l1ball:RADIUS  replace:K

P is 0, 1, 2 or inf; numbers may be fractions. A leaf is x (the input, the default), x.NAME, a parameter by its own name or a pattern over
names (*.weight, quoted); inf:0.05:element@*.weight and inf:0.05:rms@fc1.weight are radii relative to each weight, or to the rms of its layer;
inf:0.002:shared@fc1.weight (or inf:0.05:rms:shared@...) is one change common to all examples.
``--low`` and ``--high`` are the valid range of the inputs; ``clipped`` cuts the noise off at them, ``replace`` draws new values from it (0 to 1 without).
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from math import inf, isfinite
from typing import TYPE_CHECKING

from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.laws import Law
    from brittle.region import Ball

Range = tuple[float | None, float | None]
KINDS = "gaussian:SIGMA, ball:RADIUS:P, sphere:RADIUS:P, cube:RADIUS, laplace:SCALE, l1ball:RADIUS or replace:K"


def number(text: str, what: str) -> float:
    """A finite decimal number or a fraction.

    >>> number("8/255", "radius") == 8 / 255, number("1e-3", "radius")
    (True, 0.001)
    """
    try:
        top, slash, bottom = text.partition("/")
        exact = Fraction(top.strip()) / Fraction(bottom.strip()) if slash else Fraction(text.strip())
        value = float(exact)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = inf
    if not isfinite(value):
        raise InputError(what, "a number such as 0.1 or 8/255", repr(text), "correct it")
    return value


def valid_range(low: str | None, high: str | None) -> Range:
    """--low and --high as numbers."""
    ends = (None if low is None else number(low, "--low"), None if high is None else number(high, "--high"))
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise InputError("range", "--low below --high", f"--low {low} --high {high}", "swap them")
    return ends


def regions(texts: Iterable[str], limits: Range) -> "dict[str, dict[str, Ball]]":
    """Regions by name, each a ball per leaf.

    >>> regions(["joint=inf:0.5,2:1/4@fc.weight"], (0.0, 1.0))
    {'joint': {'x': Ball(p=inf, radius=0.5, low=0.0, high=1.0), 'fc.weight': Ball(p=2, radius=0.25)}}
    >>> regions(["weights=inf:0.05:rms@*.weight"], (0.0, 1.0))
    {'weights': {'*.weight': Ball(p=inf, radius=0.05, relative='rms')}}
    >>> regions(["device=inf:0.002:shared@fc1.weight"], (0.0, 1.0))
    {'device': {'fc1.weight': Ball(p=inf, radius=0.002, shared=True)}}
    """
    return {name: _region(body, limits) for name, body in _named(texts, "--region", "l2=2:1").items()}


def laws(texts: Iterable[str], limits: Range) -> "dict[str, dict[str, Law]]":
    """Noise laws by name, each a law per leaf.

    >>> laws(["rain=gaussian:0.1", "box=ball:8/255:inf:clipped"], (0.0, 1.0))["rain"]
    {'x': Gaussian(sigma=0.1, clip=None)}
    """
    named = _named(texts, "--noise", "rain=gaussian:0.1").items()
    return {name: dict(_law(part, limits) for part in body.split(",")) for name, body in named}


def smoothed(texts: Iterable[str], limits: Range) -> "dict[str, dict[str, Law]]":
    """Laws that are put on top of the model, by name, each a law per leaf.

    >>> smoothed(["smooth=gaussian:0.25"], (0.0, 1.0))
    {'smooth': {'x': Gaussian(sigma=0.25, clip=None)}}
    """
    named = _named(texts, "--smoothed", "smooth=gaussian:0.25").items()
    return {name: dict(_law(part, limits) for part in body.split(",")) for name, body in named}


def _named(texts: Iterable[str], option: str, example: str) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in texts:
        name, equals, body = text.partition("=")
        if not (equals and body and re.fullmatch(r"[\w.+-]+", name)):
            raise InputError(option, f"NAME=VALUE, for example {example}", repr(text), "see brittle audit --help")
        if name in named:
            raise InputError(option, "a name for each", f"{name!r} twice", "rename one")
        named[name] = body
    return named


def _region(body: str, limits: Range) -> "dict[str, Ball]":
    from brittle.region import Ball

    balls: dict[str, Ball] = {}
    for part in body.split(","):
        ball, _, leaf = part.partition("@")
        leaf = leaf or "x"
        p, colon, rest = ball.partition(":")
        radius, *words = rest.split(":")
        shared = words[-1:] == ["shared"]
        kind = ":".join(words[:-1] if shared else words)
        if not colon or leaf in balls or kind not in ("", "element", "rms"):
            expected = "P:RADIUS@LEAF or P:RADIUS:element@LEAF or P:RADIUS:rms@LEAF, with :shared behind it or not, every leaf once"
            raise InputError("--region", expected, repr(part), "write for example inf:8/255@x")
        low, high = limits if _is_input(leaf) else (None, None)
        size = number(radius, "radius")
        balls[leaf] = Ball(_norm(p, (0, 1, 2, inf)), size, low, high, shared=shared, relative=kind or None)
    return balls


def _law(part: str, limits: Range) -> "tuple[str, Law]":
    text, _, leaf = part.partition("@")
    words = text.split(":")
    clipped = words[-1] == "clipped"
    law = _kind(words[:-1] if clipped else words, limits if _is_input(leaf or "x") else (None, None))
    if law is None:
        raise InputError("--noise", KINDS, repr(part), "write for example gaussian:0.1")
    if not clipped:
        return leaf or "x", law
    low, high = limits
    if low is None or high is None:
        raise InputError("--noise", "--low and --high for clipped noise", repr(part), "give both")
    return leaf or "x", law.clipped(low, high)


def _kind(words: list[str], limits: Range) -> "Law | None":
    """The law that the words name; None where they name none."""
    from brittle.laws import Gaussian, Laplace, Replace, UniformBall, UniformSphere

    kind, *rest = words
    if kind in ("ball", "sphere") and len(rest) in (1, 2):
        make = UniformBall if kind == "ball" else UniformSphere
        return make(number(rest[0], "radius"), _norm(rest[1], (1, 2, inf)) if rest[1:] else 2)
    if len(rest) != 1:
        return None
    if kind == "replace":
        low, high = limits
        whole = number(rest[0], "number of coordinates")
        k = int(whole) if whole == int(whole) else whole
        return Replace(k, 0.0 if low is None else low, 1.0 if high is None else high)  # type: ignore[arg-type]
    if kind in ("cube", "l1ball"):
        return UniformBall(number(rest[0], "radius"), inf if kind == "cube" else 1)
    if kind == "laplace":
        return Laplace(number(rest[0], "scale"))
    return Gaussian(number(rest[0], "sigma")) if kind == "gaussian" else None


def _norm(text: str, known: tuple[float, ...]) -> float:
    value = {"0": 0, "1": 1, "2": 2, "inf": inf}.get(text)
    if value is None or value not in known:
        raise InputError("norm", " | ".join(f"{p:g}" for p in known), repr(text), "choose one of these")
    return value


def _is_input(leaf: str) -> bool:
    return leaf == "x" or leaf.startswith("x.")
