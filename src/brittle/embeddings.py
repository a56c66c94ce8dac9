"""Tokens cannot move, the vectors that stand for them can: a model cut behind its embedding, so that these vectors are a leaf."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.network import copied

Inputs = Tensor | Mapping[str, Tensor]
LEAF = "embedded"


class Embedded(nn.Module):
    """``module`` with the output of its embedding given: ``forward(tokens=..., embedded=(batch, time, feature))``, and any other keyword inputs.

    Positions that hold the token ``padding`` keep the vector the module itself has for them, whatever is given there. Everything else that the
    module makes of its tokens (masks, lengths, positions) it makes of the ones it gets.
    """

    def __init__(self, module: nn.Module, layer: str, padding: int | None, lone: bool) -> None:
        super().__init__()
        self.module, self.layer, self.padding, self.lone = module, layer, padding, lone

    def forward(self, **inputs: Tensor) -> object:
        value = inputs.pop(LEAF)

        def given(layer: nn.Module, tokens: tuple[Any, ...], vectors: Tensor) -> Tensor:
            if self.padding is None:
                return value
            return torch.where((tokens[0] == self.padding).unsqueeze(-1), vectors, value.to(vectors.dtype))

        handle = self.module.get_submodule(self.layer).register_forward_hook(given)
        try:
            return self.module(inputs["tokens"]) if self.lone else self.module(**inputs)
        finally:
            handle.remove()


def embedded(
    module: nn.Module, tokens: Inputs, *, layer: str | None = None, padding: int | None = None
) -> tuple[Embedded, dict[str, Tensor]]:
    """A text model cut behind its ``nn.Embedding``: a module and inputs for a :class:`brittle.Problem` whose leaf ``"x.embedded"`` is the embedded text.

    The inputs are the tokens as given and ``"embedded"``, the vectors (batch, time, feature) that the embedding has for them; at these the
    new module answers what ``module`` answers for the tokens. Its region is ``{"x.embedded": bt.Ball(...)}``, in the units of the embedding, over the
    whole sequence: for p = inf every number of every word moves by up to the radius. A ball around the vectors holds more than other words: nothing
    is said about which words an attack could write.

    tokens   (batch, time) integers, or a mapping of keyword inputs with such a tensor among them
    layer    the name of the embedding, where the module has several (words, positions, segments)
    padding  the token whose positions stand still; default the embedding's own ``padding_idx``. They keep their vector whatever is given there, so
             no attack gains from them. Where such tokens are among the examples, attacks and noise work and bounds decline ("operation where").

    ``module`` is not touched; parameters keep their names behind ``module.``.

    Errors: InputError for a module without an embedding, or with several and no ``layer``; for one that reads it never or more than once in a
    forward pass, or with the batch behind the time; and for an ``nn.EmbeddingBag``, which has no vector for each word.

    >>> text = nn.Sequential(nn.Embedding(9, 2, padding_idx=0), nn.Flatten(), nn.Linear(6, 2))
    >>> cut, x = embedded(text, torch.tensor([[0, 3, 5], [1, 1, 7]]))
    >>> x["embedded"].shape, bool((cut(**x) == text(x["tokens"])).all())
    (torch.Size([2, 3, 2]), True)
    """
    if not isinstance(module, nn.Module):
        raise InputError("module", "a torch.nn.Module with an nn.Embedding", type(module).__name__, "pass the model")
    copy = copied(module)
    for part in copy.modules():
        object.__setattr__(part, "training", False)
    name = _chosen(copy, layer)
    lone = isinstance(tokens, Tensor)
    inputs: dict[str, Tensor] = {"tokens": tokens} if isinstance(tokens, Tensor) else dict(tokens)
    if LEAF in inputs:
        raise InputError(
            "tokens",
            f"keyword inputs other than {LEAF!r}",
            f"one of that name: {', '.join(inputs)}",
            "wrap the model to rename it",
        )
    seen, vectors = _read(copy, name, inputs, lone)
    found = getattr(copy.get_submodule(name), "padding_idx", None) if padding is None else padding
    still = found if found is not None and bool((seen == found).any()) else None
    return Embedded(copy, name, still, lone), {**inputs, LEAF: vectors}


def _chosen(module: nn.Module, layer: str | None) -> str:
    """The name of the embedding that is cut behind."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Embedding)]
    if layer is not None:
        if layer not in names:
            raise InputError(
                "layer", f"an nn.Embedding among {', '.join(map(repr, names)) or 'none'}", repr(layer), "correct it"
            )
        return layer
    if not names:
        bags = any(isinstance(part, nn.EmbeddingBag) for part in module.modules())
        got = "an nn.EmbeddingBag, which adds the words up" if bags else "none"
        raise InputError(
            "module",
            "one nn.Embedding",
            got,
            "pass a model that reads tokens; where inputs are numbers already, move x itself",
        )
    if len(names) > 1:
        told = ", ".join(repr(n) for n in names)
        raise InputError(
            "module", "one nn.Embedding", f"{len(names)}: {told}", f"say which holds the words: layer={names[0]!r}"
        )
    return names[0]


def _read(module: nn.Module, name: str, inputs: Mapping[str, Tensor], lone: bool) -> tuple[Tensor, Tensor]:
    """What the embedding is given and what it answers in one forward pass: (batch, time) and (batch, time, feature)."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.get_submodule(name).register_forward_hook(
        lambda part, given, out: calls.append((given[0], out.detach()))
    )
    try:
        with torch.no_grad():
            try:
                module(inputs["tokens"]) if lone else module(**inputs)
            except (RuntimeError, TypeError, IndexError, ValueError) as reason:
                first = (str(reason).strip().splitlines() or ["no message"])[0][:160].rstrip(". ")
                do = "give integer tokens of shape (batch, time), smaller than the embedding's number of words"
                raise InputError(
                    "tokens", "what the module can read", f"{type(reason).__name__}: {first}", do
                ) from reason
    finally:
        handle.remove()
    if len(calls) != 1:
        got = "it is not read" if not calls else f"it is read {len(calls)} times"
        raise InputError(
            f"embedding {name!r}",
            "one that a forward pass reads once",
            got,
            "wrap the model so that all tokens are embedded together",
        )
    count = len(next(iter(inputs.values())))
    seen, vectors = calls[0]
    if vectors.dim() < 2 or len(vectors) != count:
        do = "wrap the model so that it transposes behind its embedding"
        raise InputError(f"embedding {name!r}", f"the {count} examples on its first axis", tuple(vectors.shape), do)
    return seen, vectors.clone()
