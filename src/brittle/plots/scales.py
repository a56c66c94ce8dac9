"""From values to pixels, and where the ticks go."""

from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, log10

FAR = 1e4  # pixels; an infinite value is drawn this far outside the frame, where the frame clips it


@dataclass(frozen=True)
class Scale:
    """The map of [low, high] onto the pixels [start, stop], linear or logarithmic.

    >>> Scale(0, 10, 100, 200)(2.5)
    125.0
    >>> round(Scale(1e-4, 1, 0, 80, log=True)(1e-3), 9)
    20.0
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"scale: expected finite low < high, got [{self.low}, {self.high}]; widen the range")
        if self.log and self.low <= 0:
            raise ValueError(f"logarithmic scale: expected low > 0, got {self.low}; raise the lower end")

    def __call__(self, value: float) -> float:
        direction = 1 if self.stop > self.start else -1
        if value == inf:
            return self.stop + direction * FAR
        if value == -inf or (self.log and value <= 0):
            return self.start - direction * FAR
        return self.start + (self.stop - self.start) * self.fraction(value)

    def fraction(self, value: float) -> float:
        """Where a finite value lies between low (0) and high (1)."""
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], about ``count`` of them.

    >>> nice_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(0, 0.037, 4)
    [0.0, 0.01, 0.02, 0.03]
    """
    raw = (high - low) / max(1, count)
    power = 10.0 ** floor(log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(log10(s / raw)))
    digits = max(0, -floor(log10(step))) + 1
    margin = 1e-9 * (high - low)
    first, last = ceil((low - margin) / step), floor((high + margin) / step)
    return [round(k * step, digits) + 0.0 for k in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 7) -> list[float]:
    """Powers of ten inside [low, high], every k-th so that about ``count`` remain; below two decades 2 and 5 as well.

    >>> log_ticks(1e-4, 1)
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    >>> log_ticks(0.1, 2)
    [0.1, 0.2, 0.5, 1.0, 2.0]
    """
    margin = 1e-9
    first, last = ceil(log10(low) - margin), floor(log10(high) + margin)
    if last - first >= 2:
        every = max(1, ceil((last - first) / count))
        return [float(f"1e{k}") for k in range(last, first - 1, -every)][::-1]
    candidates = [float(f"{m}e{k}") for k in range(first - 1, last + 1) for m in (1, 2, 5)]
    return [v for v in candidates if low * (1 - margin) <= v <= high * (1 + margin)]


def tick_text(value: float, ticks: list[float], log: bool = False) -> str:
    """The label of a tick, with as many decimals as its neighbours need.

    >>> [tick_text(v, [0.0, 0.05, 0.1]) for v in (0.0, 0.05, 0.1)]
    ['0', '0.05', '0.10']
    >>> tick_text(1e-5, [1e-5, 1e-4], log=True)
    '10⁻⁵'
    """
    if value == 0:
        return "0"
    exponent = floor(log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    if (
        log
        and max(abs(log10(t)) for t in ticks) > 3.5
        and exponent != 0
        or not log
        and max(abs(t) for t in ticks) >= 1e5
    ):
        head = "" if abs(mantissa - 1) < 1e-9 else f"{mantissa:.3g}·"
        return f"{head}10{superscript(exponent)}"
    if log:
        return f"{value:.10g}"
    size = max(abs(t) for t in ticks)
    decimals = next((d for d in range(12) if all(abs(round(t, d) - t) < 1e-9 * size for t in ticks)), 12)
    return f"{value:.{decimals}f}".replace("-", "−")


def superscript(exponent: int) -> str:
    """An integer in superscript digits.

    >>> superscript(-12)
    '⁻¹²'
    """
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
