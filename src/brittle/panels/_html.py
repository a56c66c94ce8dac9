"""How panels write: one Jinja environment that escapes everything, and numbers in words."""

from collections.abc import Mapping
from functools import cache
from math import floor, isinf, log10

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from brittle.plots.scales import superscript

# Okabe and Ito's colours have eight entries; black and yellow are kept for text and marks that must stand out on either page.
COLOURS = DASHES = 6


@cache
def environment() -> Environment:
    """Escapes every value, refuses undefined names."""
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"number": number, "percent": percent, "share": share}
    return made


def fill(template: str, values: Mapping[str, object]) -> Markup:
    """A template with its values, all of them escaped unless they are Markup already."""
    return Markup(environment().from_string(template).render(values))


def number(value: float | None, digits: int = 3) -> str:
    """A measured number with ``digits`` significant digits.

    >>> number(0.41234), number(1235.6), number(0.0000412), number(float("inf")), number(None), number(0)
    ('0.412', '1,236', '4.12 × 10⁻⁵', '∞', '–', '0')
    """
    if value is None or value != value:
        return "–"
    if isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = floor(log10(abs(value)))
    if exponent < -3 or exponent > 6:
        mantissa = f"{value / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
        return f"{mantissa} × 10{superscript(exponent)}".replace("-", "−")
    if exponent >= digits:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def percent(value: float | None, decimals: int = 0) -> str:
    """A share as a percentage; never rounded to 0 or 100 when it is neither.

    >>> percent(0.634), percent(0.999), percent(0.0001), percent(1.0)
    ('63 %', '99.9 %', '0.01 %', '100 %')
    """
    if value is None or value != value:
        return "–"
    for digits in (decimals, 1, 2, 3):
        text = f"{100 * value:.{digits}f}"
        if digits >= decimals and (value in (0, 1) or float(text) not in (0, 100)):
            return f"{text} %"
    return "< 0.001 %" if value < 0.5 else "> 99.999 %"


def share(count: int, total: int) -> str:
    """A count in a total, in words.

    >>> share(80, 100), share(1, 1)
    ('80 of 100 examples', 'the one example')
    """
    if total == 1:
        return "the one example" if count else "none of one example"
    return f"{count:,} of {total:,} examples"


def series(k: int) -> str:
    """Classes of the k-th series: a colour and a dash pattern that no other of the first 36 series shares."""
    return f"c{k % COLOURS} d{(k + k // COLOURS) % DASHES}"


def clip(text: object, most: int = 200) -> str:
    """A text of bounded length."""
    whole = str(text)
    return whole if len(whole) <= most else whole[: most - 1] + "…"
