"""Options that several commands share, declared once."""

from typing import Annotated, Literal

import typer

MODELS = "file.py:object, program.pt2, weights.safetensors@file.py:factory, or demo:mlp"
DATA = "file.npz, file.parquet, a folder of class folders of images, file.py:object, or sklearn:digits"

Format = Literal["table", "json", "csv", "md"]

FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]
LowOption = Annotated[str | None, typer.Option("--low", metavar="NUMBER", help="Smallest valid value of the inputs.")]
HighOption = Annotated[str | None, typer.Option("--high", metavar="NUMBER", help="Largest valid value of the inputs.")]
LimitOption = Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first N examples.")]
FactoryOption = Annotated[
    str | None,
    typer.Option("--factory", metavar="file.py:NAME", help="Builds the module for weights that come without one."),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Load whole pickled models. This runs whatever code is in the file."),
]
