"""``brittle gate``: let a change of code or weights through only where the brackets of a run say that it may pass."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.store import Run


def gate(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    accuracy: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=SHARE",
            help="Least accuracy in a region at its declared size, as 0.9; repeat.",
            show_default=False,
        ),
    ],
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Pass where attacks leave enough and no proof says so yet.")
    ] = False,
) -> None:
    """Exit code 0 where every model keeps the accuracy asked for: certified accuracy reaches it. 1 where it does not.

    Between certified and attacked accuracy the truth is open: that fails too, unless --allow-open. A region with one change common to all
    examples is judged by its own bracket. Incomplete runs and runs that a check calls invalid never pass.
    """
    from brittle.store import load_run

    found = load_run(run)
    asked = [_asked(text, found) for text in accuracy]
    lines = [_judged(found, model, name, least, allow_open) for name, least in asked for model in found.models]
    lines += [(False, f"{model}: {doubt}") for model in found.models for doubt in _invalid(found, model)]
    if not found.complete:
        lines.append((False, "this run is not complete; run the same audit again"))
    for passed, text in lines:
        print(f"{'pass' if passed else 'FAIL'}: {text}")
    if len(asked) * len(found.models) > 1:  # S14
        print(
            f"note: {len(asked) * len(found.models)} conditions; proofs and witnesses need no correction for their number, shares of a population would (Holm)"
        )
    if not all(passed for passed, _ in lines):
        raise typer.Exit(1)


def _asked(text: str, run: "Run") -> tuple[str, float]:
    from brittle.cli._grammar import number

    name, _, share = text.rpartition("=")
    least = number(share, "--accuracy")
    if name not in run.plan.regions or not 0 <= least <= 1:
        expected = f"NAME=SHARE with a region of {', '.join(run.plan.regions) or 'this run, which has none'} and a share of 0 to 1"
        raise InputError("--accuracy", expected, repr(text), "write for example l2=0.9")
    return name, least


def _judged(run: "Run", model: str, name: str, least: float, allow_open: bool) -> tuple[bool, str]:
    """Whether it passes, and a sentence."""
    shared = ("accuracy", name) in run.plan.questions()
    if shared:
        certified, attacked = run.shared_accuracy(model, name)
    else:
        (certified,), (attacked,) = run.accuracy(model, name, [1.0])
    what = f"{model}, {name}{', one change for all examples' if shared else ''}"
    if certified is None or attacked is None:
        return False, f"{what}: part of the answer is missing"
    bracket = f"accuracy in [{certified:.4g}, {attacked:.4g}]"
    if certified >= least:
        return True, f"{what}: {bracket}, at least {least:g} is proved"
    if attacked < least:
        return False, f"{what}: {bracket}, at least {least:g} is refuted by stored witnesses"
    return allow_open, f"{what}: {bracket}, at least {least:g} is neither proved nor refuted"


def _invalid(run: "Run", model: str) -> list[str]:
    """Checks after which no number of this model may be used."""
    grave = [check for check in run.checks.get(model, []) if check.get("consequence") in ("invalid", "stop")]
    return [str(check.get("doubt") or check.get("title")) for check in grave]
