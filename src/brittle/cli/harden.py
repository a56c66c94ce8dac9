"""``brittle harden``: a cured copy of a model, and the same brackets before and after."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brittle.cli._options import (
    DATA,
    MODELS,
    FactoryOption,
    FormatOption,
    HighOption,
    LimitOption,
    LowOption,
    TrustOption,
)
from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.region import Ball
    from brittle.sources.batch import Data
    from brittle.training import Training

COLUMNS = ("model", "clean accuracy", "median radius", "guarantee")
VALUES = ("model", "accuracy", "examples", "lower", "upper", "measured", "lower_guarantee", "upper_guarantee")


def harden(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    data: Annotated[str, typer.Argument(help=DATA, show_default=False)],
    penalty: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT[:OPTION=VALUE,...]",
            help="What to train with: jacobian=0.01, adversarial=1:radius=8/255,p=inf; repeat. See brittle list penalties.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The cured weights.")] = Path("hardened.safetensors"),
    test: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Data to measure on; default: a fifth of DATA, which is then not trained on."
        ),
    ] = None,
    region: Annotated[
        str,
        typer.Option(
            metavar="NAME=P:RADIUS", help="The ball of the radius, and of penalties that have none of their own."
        ),
    ] = "l2=2:1",
    low: LowOption = None,
    high: HighOption = None,
    clean_weight: Annotated[float, typer.Option(help="Weight of the loss at the given inputs; 0 leaves it out.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 30,
    batch: Annotated[int, typer.Option(help="Examples per step.")] = 64,
    rate: Annotated[float, typer.Option(help="Of Adam; falls to 0 like a cosine.")] = 1e-3,
    examples: Annotated[int, typer.Option(help="How many are attacked and certified, before and after.")] = 50,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    limit: LimitOption = None,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
    format: FormatOption = "table",
) -> None:
    """Train a copy of a model with penalties, write its weights, and print accuracy and radius before and after.

    The copy starts from the weights of the model. Radii are brackets at quick effort, on data that were not trained on. The model
    itself is not changed. The last line printed is the file; FILE@file.py:factory names it to other commands.
    """
    from brittle.cli._grammar import regions, valid_range
    from brittle.cli._inputs import load
    from brittle.cli._table import render

    terms = read_penalties(penalty or ())
    balls = next(iter(regions([region], valid_range(low, high)).values()))
    _check_out(out, model)
    given = load({"model": model}, data, limit, factory, trust_pickle)
    learn, judge = _split(
        given.data, load({"model": model}, test, limit, factory, trust_pickle).data if test else None, seed
    )
    before = given.models["model"]
    from brittle.training import train

    done = train(
        before, learn.x, learn.labels, penalties=terms, region=balls, clean_weight=clean_weight, epochs=epochs, batch=batch,  # type: ignore[arg-type]
        rate=rate, seed=seed, progress=True,
    )  # fmt: skip
    _save(done, out)
    named = {"given": before, "hardened": done.module}
    rows = [_measured(name, module, judge, balls, examples, seed) for name, module in named.items()]
    machine = format in ("json", "csv")
    render(rows if machine else [_text(row) for row in rows], VALUES if machine else COLUMNS, format)
    if format != "table":
        return
    print(f"{_spoken(rows[0])}. Accuracy: {len(judge.labels)} examples. {done.cost.seconds:.0f} s of training.")
    builder = factory or model.partition("@")[2] or (model if ":" in model else "")
    print(f"name it to other commands: {out}@{builder or 'file.py:factory'}")
    print(out)


def read_penalties(texts: Iterable[str]) -> dict[str, dict[str, object]]:
    """What stands after --penalty, by name.

    >>> read_penalties(["jacobian=0.01", "adversarial=1:radius=1/4,p=inf"])
    {'jacobian': {'weight': 0.01}, 'adversarial': {'weight': 1.0, 'radius': 0.25, 'p': inf}}
    """
    from brittle.cli._grammar import number

    found: dict[str, dict[str, object]] = {}
    for text in texts:
        head, _, tail = text.partition(":")
        name, _, weight = head.partition("=")
        if not name or name in found:
            raise InputError("--penalty", "NAME=WEIGHT, every name once", repr(text), "write for example jacobian=0.01")
        found[name] = {"weight": number(weight or "1", f"weight of {name}")}
        for option in filter(None, tail.split(",")):
            key, equals, value = option.partition("=")
            if not (key and equals):
                raise InputError(f"--penalty {name}", "OPTION=VALUE after the colon", repr(option), "correct it")
            found[name][key] = _value(value)
    if not found:
        raise InputError("harden", "at least one --penalty", "none", "write for example --penalty jacobian=0.01")
    return found


def _value(text: str) -> object:
    """A truth value, a number (whole ones as integers), infinity, or the text itself."""
    from brittle.cli._grammar import number

    words: dict[str, object] = {"true": True, "false": False, "none": None, "inf": float("inf")}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text) if text.lstrip("-").isdigit() else number(text, "option")
    except InputError:
        return text


def _check_out(out: Path, model: str) -> None:
    source = Path(model.partition("@")[0])
    if out.suffix != ".safetensors":
        raise InputError("--out", "a file that ends in .safetensors", str(out), "rename it")
    if source.exists() and out.exists() and source.samefile(out):
        raise InputError("--out", "another file than the model's own weights", str(out), "choose another name")


def _split(data: "Data", test: "Data | None", seed: int) -> "tuple[Data, Data]":
    """What is trained on, and what is measured on: the test data, or a fifth of the data drawn from the seed."""
    import torch

    from brittle.randomness import generator

    if test is not None:
        return data, test
    count = len(data.labels)
    order = torch.randperm(count, generator=generator(seed, "harden"))
    cut = count // 5
    if not cut:
        raise InputError("data", "at least 5 examples, a fifth of which is held out", count, "give --test DATA too")
    return _take(data, order[cut:].sort().values), _take(data, order[:cut].sort().values)


def _take(data: "Data", at) -> "Data":
    x = {k: v[at] for k, v in data.x.items()} if isinstance(data.x, dict) else data.x[at]
    return type(data)(x, data.labels[at])


def _save(done: "Training", out: Path) -> None:
    from safetensors.torch import save

    from brittle.files import write_bytes

    state = {k: v.detach().cpu().clone().contiguous() for k, v in done.module.state_dict().items()}
    write_bytes(out, save(state))


def _measured(
    name: str, module: Callable, judge: "Data", balls: "Mapping[str, Ball]", examples: int, seed: int
) -> dict[str, object]:
    import brittle as bt

    problem = bt.Problem(module, judge.x, judge.labels, balls)
    accuracy = float((problem.margin() > 0).double().mean())
    some = problem.take(_first(problem, examples))
    found = bt.radius(some, effort="quick", seed=seed)
    ball = next(iter(balls.values()))
    lone = len(balls) == 1
    unit = f"l{ball.p:g} radius" if lone else "multiple of the region"
    factor = ball.radius if lone else 1.0
    ends = {end: _finite(float(getattr(found, end).median()) * factor) for end in ("lower", "upper")}
    kinds = {"lower_guarantee": found.guarantee.lower, "upper_guarantee": found.guarantee.upper}
    return {"model": name, "accuracy": accuracy, "examples": len(some), "measured": unit, **ends, **kinds}


def _first(problem, count: int):
    import torch

    return torch.arange(min(max(count, 1), len(problem)))


def _text(row: Mapping) -> dict[str, object]:
    return {
        "model": row["model"],
        "clean accuracy": f"{row['accuracy']:.1%}",
        "median radius": f"[{_number(row['lower'])}, {_number(row['upper'])}]",
        "guarantee": f"{row['lower_guarantee']} .. {row['upper_guarantee']}",
    }


def _finite(value: float) -> float | str:
    """Infinity as a word, which JSON has no number for."""
    return "inf" if value == float("inf") else value


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _spoken(row: Mapping) -> str:
    return f"Median {row['measured']} of {row['examples']} examples, at quick effort"
