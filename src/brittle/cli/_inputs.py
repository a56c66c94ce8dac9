"""Models and data of a command line, loaded and fitted to each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.sources.batch import Data, Inputs


@dataclass(frozen=True)
class Loaded:
    """What a command was given: models by name, data, and the texts that name them for the record."""

    models: Mapping[str, Callable]
    data: "Data"
    sources: Mapping[str, object]


def load(
    models: Mapping[str, str], data: str, limit: int | None, factory: str | None = None, trust_pickle: bool = False
) -> Loaded:
    """Load everything before anything is measured. Inputs are cast to the floating dtype of the first model."""
    from brittle.sources.data import load_data
    from brittle.sources.models import canonical, load_model

    texts = {name: canonical(spec, factory) for name, spec in models.items()}
    loaded = {name: load_model(spec, trust_pickle=trust_pickle) for name, spec in texts.items()}
    batch = load_data(data, limit)
    batch = batch._replace(x=_cast(batch.x, next(iter(loaded.values()))))
    return Loaded(loaded, batch, {"models": texts, "data": data, "limit": limit})


def named_models(texts: Sequence[str]) -> dict[str, str]:
    """``--model NAME=SPEC`` options by name; a lone SPEC is called "model"."""
    named: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        name, spec = (name, spec) if equals and name.replace("_", "").replace("-", "").isalnum() else ("model", text)
        if name in named or not spec:
            raise InputError(
                "--model", "NAME=SPEC with a name for each", repr(text), "write for example plain=net.py:model"
            )
        named[name] = spec
    return named


def _cast(x: "Inputs", model: Callable) -> "Inputs":
    """Floating inputs in the dtype of the model's floating parameters (float32 where it has none): files often hold float64."""
    import torch

    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    kind = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    cast = lambda value: value.to(kind) if value.is_floating_point() else value
    return {name: cast(value) for name, value in x.items()} if isinstance(x, dict) else cast(x)
