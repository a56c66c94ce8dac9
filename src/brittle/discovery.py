"""Methods are found by name: one file = one method, the file's name is the function's name.

The facts of a method are read from the source text, so that listing all of them imports none of them (and no torch).
"""

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module, util
from importlib.metadata import entry_points
from math import inf
from pathlib import Path

from brittle.about import EVERY_NORM, About
from brittle.errors import InputError

FAMILIES = {
    "attacks": "worst case, upper ends: a concrete point at which the property fails",
    "bounds": "worst case, lower ends: certified lower rows over the whole region",
    "noise": "random case, both ends: the probability that noise breaks the property",
    "references": "the best possible classifier on this data",
    "diagnostics": "why: explanations as findings",
    "spectra": "recurrent matrices and Jacobians",
    "penalties": "terms to train with",
    "cures": "surgery, normalisation, constrained cells, projections",
    "checks": "is this measurement to be believed",
    "panels": "sections of the report",
    "studies": "the experiments of a paper, run again",
}
EFFORTS = ("quick", "standard", "thorough")


@dataclass(frozen=True)
class Method:
    """One discovered method: its facts, and the function itself once it is asked for."""

    family: str
    name: str
    module: str
    about: About
    source: str = "brittle"

    @property
    def function(self) -> Callable:
        """The function, imported now."""
        return getattr(import_module(self.module), self.name)

    def __call__(self, *args, **options):
        try:
            return self.function(*args, **options)
        except Exception as reason:
            if self.source != "brittle":  # so that its author is asked, and not we
                reason.add_note(f"raised by {self.name} of {self.family}, from the installed package {self.source}")
            raise


def methods(family: str | None = None) -> tuple[Method, ...]:
    """Every method of a family (default: of all), built in and from installed packages, sorted by name.

    A package joins with an entry point in the group ``brittle.FAMILY``: ``name = "package.module:name"``, where the
    module holds ``ABOUT`` and a function of that name.

    >>> [m.name for m in methods("bounds") if m.name == "ibp"]
    ['ibp']
    """
    if family is None:
        return tuple(m for f in FAMILIES for m in methods(f))
    if family not in FAMILIES:
        raise InputError("family", f"one of {', '.join(FAMILIES)}", family, "see brittle list")
    return _built_in(family) + _installed(family)


def method(family: str, name: str) -> Method:
    """One method by name."""
    known = {m.name: m for m in methods(family)}
    if name not in known:
        near = get_close_matches(str(name), known, 1)
        do = f"did you mean {near[0]!r}? see brittle list {family}" if near else f"see brittle list {family}"
        raise InputError(f"method of {family}", f"one of {', '.join(known)}", name, do)
    return known[name]


def portfolio(
    family: str, effort: str, answers: str, p: tuple[float, ...] = (), leaves: tuple[str, ...] = ()
) -> list[Method]:
    """The methods that a question runs by itself: those that answer it, at this effort or less, for these norms and leaves.

    One that yields to another of them (``About.unless``) is left out.
    """
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), effort, "choose one of these")
    able = [
        m
        for m in methods(family)
        if m.about.effort
        and EFFORTS.index(m.about.effort) <= EFFORTS.index(effort)
        and m.about.answers == answers
        and set(p) <= set(m.about.norms)
        and set(leaves) <= set(m.about.leaves)
    ]
    names = {m.name for m in able}
    return [m for m in able if not names & set(m.about.unless)]


def check_options(function: Callable, options: dict[str, object]) -> None:
    """Refuse options that a method does not have, naming those that it has."""
    known = [n for n, q in inspect.signature(function).parameters.items() if q.kind == q.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        do = f"did you mean {near[0]!r}?" if near else "leave it out, or use one of these names"
        raise InputError(f"options of {function.__name__}", f"some of {', '.join(known)}", ", ".join(unknown), do)


@cache
def _built_in(family: str) -> tuple[Method, ...]:
    folder = Path(__file__).parent / family
    files = sorted(f for f in folder.glob("*.py") if not f.stem.startswith("_")) if folder.is_dir() else []
    return tuple(Method(family, f.stem, f"brittle.{family}.{f.stem}", _about(f)) for f in files)


def _installed(family: str) -> tuple[Method, ...]:
    found = []
    for point in sorted(entry_points(group=f"brittle.{family}"), key=lambda e: e.name):
        spec = util.find_spec(point.module)
        if spec is not None and spec.origin is not None:
            source = point.dist.name if point.dist is not None else point.module
            found.append(Method(family, point.attr or point.name, point.module, _about(Path(spec.origin)), source))
    return tuple(found)


def _about(file: Path) -> About:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ABOUT":
            names = {"__builtins__": {}, "About": About, "inf": inf, "EVERY_NORM": EVERY_NORM}
            return eval(compile(ast.Expression(node.value), str(file), "eval"), names)  # noqa: S307 - our own or an installed package's source
    raise InputError(
        f"method file {file.name}", "a line ABOUT = About(...)", "none", "declare what the method promises"
    )
