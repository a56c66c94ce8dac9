"""``brittle audit``: every question about every model, into a run folder with a report."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from brittle.cli._options import DATA, MODELS, FactoryOption, HighOption, LimitOption, LowOption, TrustOption
from brittle.errors import InputError

# the distances themselves: a ball of radius 1 makes the scale a length, so no budget has to be chosen
DISTANCES = ("l2=2:1", "linf=inf:1")
DEMO_MODELS = ("plain=demo:mlp", "hardened=demo:hardened")
# sizes at which the plain network still keeps most of its accuracy, so that the two networks can be told apart
DEMO_REGIONS, DEMO_NOISE = ("l2=2:0.3", "linf=inf:0.05"), ("noise=gaussian:0.1",)
DEMO_DATA, DEMO_LIMIT, DEMO_OUT = "sklearn:digits[test]", 100, Path("runs/demo")


def audit(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help=MODELS, show_default=False)] = None,
    data: Annotated[str | None, typer.Argument(help=DATA, show_default=False)] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME=SPEC", help="Audit several models side by side; repeat."),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=P:RADIUS[@LEAF]", help="What may move in the worst case: l2=2:1, eps=inf:8/255; repeat."
        ),
    ] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LAW", help="What moves at random: rain=gaussian:0.1, box=ball:8/255:inf; repeat."),
    ] = None,
    smoothed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LAW",
            help="Radius of another model, this one with noise on top: smooth=gaussian:0.25; repeat.",
        ),
    ] = None,
    low: LowOption = None,
    high: HighOption = None,
    effort: Annotated[Literal["quick", "standard", "thorough"], typer.Option(help="Which methods run.")] = "standard",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    limit: LimitOption = None,
    level: Annotated[float, typer.Option(help="Confidence of the intervals of probabilities.")] = 0.95,
    chunk: Annotated[int, typer.Option(help="Examples per unit of work.")] = 25,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    executor: Annotated[str | None, typer.Option(help="local or processes; default: by the workers.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder; default runs/audit.")] = None,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Audit the embedded networks on real digits; needs no argument.")
    ] = False,
) -> None:
    """Ask every question of every model and keep the evidence: records, witnesses, proofs, report.html.

    Without --region, --noise and --smoothed the distance to the nearest failure is asked for in l2 and l-infinity. A leaf after @ is x
    (the input), x.NAME (a keyword input), a parameter by its own name or a pattern ('*.weight'); :element or :rms behind a radius makes it relative to the weights,
    :shared makes the change one common to all examples (accuracy certified and attacked instead of radii);
    commas join leaves that move together: joint=inf:0.03,inf:0.002@fc1.weight, all='inf:0.01,inf:0.02:rms@*.weight'. Noise is
    gaussian:SIGMA, ball:RADIUS:P, sphere:RADIUS:P, cube:RADIUS, l1ball:RADIUS or replace:K (K coordinates get new values); with :clipped it is cut off
    at --low and --high. --smoothed takes gaussian, laplace, cube and replace, and certifies by votes the model with that noise on top, never the given one.
    Run the same command again to go on where it was interrupted. The last line printed is the run folder.
    """
    from brittle.cli._grammar import laws, regions, valid_range
    from brittle.cli._grammar import smoothed as on_top
    from brittle.cli._inputs import load, named_models

    if demo:
        if model or data or models:
            raise InputError("--demo", "no model and no data", "both given", "leave one of them out")
        models, data, limit, out = list(DEMO_MODELS), DEMO_DATA, limit or DEMO_LIMIT, out or DEMO_OUT
        region, noise = region or list(DEMO_REGIONS), noise or list(DEMO_NOISE)
        low, high = low or "0", high or "1"
    elif models:
        model, data = None, _only(model, data)
    if not data or not (model or models):
        raise InputError("audit", "MODEL DATA, or --demo", _given(model or models, data), "see brittle audit --help")
    limits = valid_range(low, high)
    balls = regions(region or ([] if noise or smoothed else DISTANCES), limits)
    noises = laws(noise or (), limits)
    given = load(named_models(models or [f"model={model}"]), data, limit, factory, trust_pickle)
    import brittle as bt

    run = bt.audit(
        given.models, given.data.x, given.data.labels, balls, noises, out or Path("runs/audit"), effort, seed,
        smoothed=on_top(smoothed or (), limits), level=level, chunk=chunk, workers=workers, executor=executor or ("processes" if workers > 1 else "local"),
        sources={**given.sources, "command": shlex.join(["brittle", *(context.obj or ["audit"])])},
    )  # fmt: skip
    _print(run)


def _given(model: object, data: str | None) -> str:
    return "a model without data" if model else f"{data} alone" if data else "neither"


def _only(model: str | None, data: str | None) -> str | None:
    """With --model the one positional argument left is the data."""
    if model and data:
        raise InputError(
            "audit", "models by --model NAME=SPEC and then DATA alone", f"{model} and {data}", "drop the first"
        )
    return model or data


def _print(run) -> None:
    from brittle.cli._brackets import COLUMNS, caption, texts
    from brittle.cli._table import render
    from brittle.cli.show import say_doubts

    render(texts(run), COLUMNS, "table")
    say_doubts(run)
    print(caption(run))
    page = run.folder / "report.html"
    if page.exists():
        print(f"report: {page}")
    print(run.folder)
