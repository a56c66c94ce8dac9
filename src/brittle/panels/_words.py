"""Plain words for guarantees, norms, regions and laws."""

from collections.abc import Iterable, Mapping

from brittle.panels._html import number

GUARANTEES = {
    "proved": "A certificate covers every point of the region, in float64 with outward rounding. No example can lie on the wrong side of it.",
    "witnessed": "A concrete point was stored at which the property fails, re-measured in the model's own precision and in float64. Anyone can replay it.",
    "statistical": "An exact interval from random draws: it holds except with the stated small probability.",
    "none": "Nothing is known at this end; the number is the trivial one (0, 1 or ∞).",
}
_STRENGTH = ("none", "statistical", "witnessed", "proved")


def guarantee(kind: str, level: float) -> str:
    """The guarantee of one end, as it stands behind a number.

    >>> guarantee("statistical", 0.95), guarantee("proved", 0.95)
    ('statistical, 95 %', 'proved')
    """
    return f"statistical, {100 * level:g} %" if kind == "statistical" else kind


def weakest(kinds: Iterable[str]) -> str:
    """The weakest guarantee among several: what a statement about all of them may claim."""
    return min(set(kinds) or {"none"}, key=_STRENGTH.index)


def norm(p: object) -> str:
    """A norm's name: l1, l2, l∞; l0 counts."""
    return "l∞" if str(p) == "inf" else f"l{p}"


def law(facts: Mapping) -> str:
    """A noise law in words.

    >>> law({"law": "Gaussian", "sigma": 0.1, "clip": None})
    'Gaussian, standard deviation 0.1'
    >>> law({"law": "Replace", "k": 3, "low": 0.0, "high": 1.0, "clip": None})
    '3 coordinates replaced by uniform values of 0 … 1'
    """
    clip = facts.get("clip")
    clipped = f", clipped to {number(clip[0])} … {number(clip[1])}" if clip else ""
    if facts.get("law") == "Gaussian" and "covariance" in facts:
        return f"Gaussian, with a covariance matrix{clipped}"
    if facts.get("law") == "Gaussian" and isinstance(facts.get("sigma"), Mapping):
        return f"Gaussian, a standard deviation per feature{clipped}"
    if facts.get("law") == "Replace":
        values = f"{number(facts.get('low'))} … {number(facts.get('high'))}"
        return f"{facts.get('k')} coordinates replaced by uniform values of {values}{clipped}"
    if facts.get("law") == "Sampler":
        return f"{facts.get('name')}, a sampler{clipped}"
    if facts.get("law") == "Gaussian":
        return f"Gaussian, standard deviation {number(facts.get('sigma'))}{clipped}"
    if facts.get("law") == "Laplace":
        return f"Laplace, scale {number(facts.get('scale'))} of every feature{clipped}"
    where = {"UniformBall": "uniform in the", "UniformSphere": "uniform on the sphere of the"}
    if facts.get("law") in where:
        return f"{where[facts['law']]} {norm(facts.get('p'))} ball of radius {number(facts.get('radius'))}{clipped}"
    return ", ".join(f"{k} {v}" for k, v in facts.items() if v is not None)


def valid_range(ball: Mapping) -> str:
    """The valid range of a leaf."""
    low, high = ball.get("low"), ball.get("high")
    if low is None and high is None:
        return "unbounded"
    if isinstance(low, Mapping) or isinstance(high, Mapping):
        return "a range per feature"
    return f"{'−∞' if low is None else number(low)} … {'∞' if high is None else number(high)}"


def in_steps(ball: Mapping) -> str:
    """The radius in steps of an 8-bit image, where the range is [0, 1] and the norm measures distance."""
    if (ball.get("low"), ball.get("high")) != (0, 1) or str(ball.get("p")) == "0":
        return ""
    return f"{number(255 * float(ball.get('radius', 0)))} steps"


def breaks(specification: Mapping, plural: bool = False) -> str:
    """What a successful change does: it "flips the answer", or breaks another property."""
    default = specification.get("specification") in ("default", "untargeted", "Untargeted")
    verb, noun = ("flip", "the answer") if default else ("break", "the property")
    return f"{verb}{'' if plural else 's'} {noun}"
