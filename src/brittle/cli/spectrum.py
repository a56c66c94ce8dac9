"""``brittle spectrum``: is the recurrence of a model stable, how robustly, and what grows on the way?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brittle.cli._options import DATA, FactoryOption, FormatOption, LimitOption, TrustOption
from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.questions.spectrum import Spectrum

MODEL = (
    "file.py:object, program.pt2, weights.safetensors (alone, or @file.py:factory), demo:gru, or a matrix in file.npy"
)
COLUMNS = ("matrix", "stability", "radius", "norm", "distance", "Kreiss constant", "largest power", "non-normality")
VALUES = (
    "matrix", "part", "role", "size", "stability", "radius", "norm", "numerical_radius", "henrici", "percentile_random", "percentile_untrained", "condition",
    "eigenvalue_condition", "scale", "distance", "distance_real", "defective", "kreiss_lower", "kreiss_upper", "transient", "transient_step", "verdict",
)  # fmt: skip


def spectrum(
    model: Annotated[str, typer.Argument(help=MODEL, show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help=f"Run the model on it and follow its states: {DATA}. An input called lengths holds valid steps.",
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only recurrent parts with such a name: encoder.l0, *reverse.")
    ] = "*",
    effort: Annotated[
        Literal["quick", "standard", "thorough"], typer.Option(help="How much is computed.")
    ] = "standard",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of record and report.")] = Path("runs/spectrum"),
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    limit: LimitOption = 64,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
    format: FormatOption = "table",
) -> None:
    """Spectra and pseudospectra of every recurrent part: gate blocks, Jacobians at fixed points and along data.

    Prints a line per matrix and the verdicts, and writes spectrum.json and report.html with eigenvalues, contours, numerical ranges,
    transients, growth along data and null models. The last line printed is the folder.
    """
    import time
    from functools import partial

    from brittle import __version__, spectrum_report
    from brittle.cli._table import render
    from brittle.files import write_json
    from brittle.progress import reporter
    from brittle.questions.spectrum import spectrum as ask

    subject, x, lengths = _load(model, data, limit, factory, trust_pickle)
    started = time.perf_counter()
    shown = partial(reporter, what="spectrum")
    found = ask(subject, x, lengths=lengths, parts=parts, effort=effort, seed=seed, progress=shown)
    settings = {
        "model": model, "data": data or "none", "limit": limit if data else "none", "parts": parts, "effort": effort, "seed": seed,
        "seconds": round(time.perf_counter() - started, 1), "brittle": __version__,
    }  # fmt: skip
    write_json(out / spectrum_report.RECORD, {"findings": found.facts(), "settings": settings})
    spectrum_report.write(out)
    machine = format in ("json", "csv")
    rows = _rows(found)
    render(
        [{k: row[k] for k in VALUES} for row in rows] if machine else [_text(row) for row in rows],
        VALUES if machine else COLUMNS,
        format,
    )
    if format != "table":
        return
    for verdict in _said(found):
        print(verdict)
    print(f"report: {out / 'report.html'}")
    print(out)


def _load(model: str, data: str | None, limit: int | None, factory: str | None, trust_pickle: bool):
    """The module, state dict or matrix; its inputs; their lengths."""
    file = Path(model)
    if file.suffix in (".npy", ".npz"):
        return _matrix(file), None, None
    if file.suffix == ".safetensors" and factory is None and data is None:
        from brittle.sources.models import load_state

        return load_state(file), None, None
    if data is None:
        from brittle.sources.models import canonical, load_model

        return load_model(canonical(model, factory), trust_pickle=trust_pickle), None, None
    from brittle.cli._inputs import load

    given = load({"model": model}, data, limit, factory, trust_pickle)
    x, module = given.data.x, given.models["model"]
    if not isinstance(x, dict) or "lengths" not in x:
        return module, x, None
    lengths, rest = x["lengths"], {k: v for k, v in x.items() if k != "lengths"}
    taken = x if _takes_lengths(module) else rest
    return module, next(iter(taken.values())) if len(taken) == 1 else taken, lengths.long()


def _takes_lengths(module) -> bool:
    import inspect

    return "lengths" in inspect.signature(getattr(module, "forward", module)).parameters


def _matrix(file: Path):
    import numpy as np

    if not file.exists():
        raise InputError("model", "an existing file", f"{file}, which does not exist", "correct the path")
    found = np.load(file, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    if len(found.files) != 1:
        raise InputError("matrix file", "one array", f"{file} with {', '.join(found.files)}", "save the matrix alone")
    return found[found.files[0]]


def _rows(found: "Spectrum") -> list[dict]:
    columns = found["matrices"].columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _text(row: dict) -> dict[str, object]:
    star = "*" if row["scale"] != 1 else ""
    kreiss = "" if row["kreiss_lower"] is None else f"{row['kreiss_lower']:.3g} .. {row['kreiss_upper']:.3g}{star}"
    return {
        "matrix": row["matrix"], "stability": row["stability"], "radius": f"{row['radius']:.4g}", "norm": f"{row['norm']:.4g}",
        "distance": "" if row["distance"] is None else f"{row['distance']:.3g}{star}", "Kreiss constant": kreiss,
        "largest power": f"{row['transient']:.3g}{star}", "non-normality": f"{row['henrici']:.2f}",
    }  # fmt: skip


def _said(found: "Spectrum") -> list[str]:
    from brittle.panels._recurrent import standing

    starred = any(scale != 1 for scale in found["matrices"].columns["scale"])
    foot = ["* of the matrix scaled to spectral radius 0.99: itself it is not stable"] if starred else []
    columns = lambda name: found[name].columns if name in found else {}
    resting = columns("fixed points")
    points = [dict(zip(resting, values, strict=True)) for values in zip(*resting.values(), strict=True)]
    said = [*columns("along data").get("verdict", ()), *standing(points), *columns("matrices")["verdict"]]
    return [*foot, *map(str, said)]
