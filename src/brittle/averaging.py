"""Models whose forward draws at random: the mean over fixed, seeded draws is a function that can be attacked and replayed."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode

from brittle import meter
from brittle.errors import InputError
from brittle.network import Network, copied, read_logits
from brittle.randomness import fold, kept, reseed

MEANS = ("logits", "probabilities")


class Averaged(nn.Module):
    """The mean of ``module`` over ``draws`` fixed draws, see :func:`averaged`. ``awake``: the parts that are in training mode while it draws."""

    def __init__(self, module: nn.Module, draws: int, seed: int, mean: str, awake: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.draws, self.seed, self.mean, self.awake = module, draws, seed, mean, awake
        self._loops = False

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        total: Tensor | None = None
        with self._roused(), kept():
            for number in range(self.draws):
                logits = self._mapped(self._draw(number, args, named))
                total = logits if total is None else total + logits
        assert total is not None
        self._count(total)
        mean = total / self.draws
        return mean if self.mean == "logits" else _as_logits(mean)

    def _draw(self, number: int, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
        """(N, C) logits under one draw, which is the same for all examples: so no example depends on its batch."""
        one = lambda row: read_logits(
            self.module(*(v[None] for v in row[0]), **{k: v[None] for k, v in row[1].items()})
        )[0]
        seed, whole = fold(self.seed, "averaged", number), (args, named)
        if not self._loops:
            try:
                reseed(seed)
                with SameInEveryPrecision():
                    return vmap(one, randomness="same")(whole)
            except RuntimeError:  # no batching rule (recurrent layers) or data-dependent control flow
                self._loops = True
        rows = []
        for i in range(len(args[0] if args else next(iter(named.values())))):
            reseed(seed)
            with SameInEveryPrecision():
                rows.append(one((tuple(v[i] for v in args), {k: v[i] for k, v in named.items()})))
        return torch.stack(rows)

    def _mapped(self, logits: Tensor) -> Tensor:
        if self.mean == "logits":
            return logits
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)

    def _count(self, output: Tensor) -> None:
        """The caller counts one pass for each example, the other draws are counted here."""
        more = (self.draws - 1) * len(output)
        meter.count(forward=more)
        mapped = torch._C._functorch.is_functorch_wrapped_tensor(output)  # type: ignore[attr-defined]
        if output.requires_grad and not mapped:
            output.register_hook(lambda gradient: meter.count(backward=more))

    @contextmanager
    def _roused(self) -> Iterator[None]:
        """Parts that draw in training mode alone are in it for the time of a forward pass, whatever the mode of the whole."""
        parts = dict(self.module.named_modules())
        modes = {name: part.training for name, part in parts.items()}
        try:
            for name, part in parts.items():
                object.__setattr__(part, "training", name in self.awake)
            yield
        finally:
            for name, part in parts.items():
                object.__setattr__(part, "training", modes[name])


def averaged(module: nn.Module, draws: int = 16, *, seed: int = 0, mean: str = "logits") -> Averaged:
    """A model with a random forward (dropout that stays on, noise layers, stochastic depth) as the mean over seeded draws: expectation over transformation.

        f(x) = (1 / draws) sum_d module(x; omega_d),      omega_d fixed by ``seed`` and d

    is deterministic, so every attack, tracker and replay works on it as on any model, and its gradient is the mean of the gradients over the draws. All
    examples see the same draws, in every batch, alone, and in float64 too: numbers are drawn in float32 on the CPU and cast.

    Guarantee: what is witnessed is a failure of the mean over *these* draws. Nothing is proved of the random model, and bounds decline ("not
    certified"). Whether a point fails under other draws is asked by :func:`brittle.failure_rate`: new draws, an exact binomial interval.

    module  a ``torch.nn.Module``, copied. Parts that are in training mode as given stay so while it draws (``model.eval()``, then ``.train()`` for
            its dropout layers, is dropout that stays on), but for normalisation with running statistics, which stays at rest
    draws   forward passes for each one asked, all counted; memory of a backward pass grows with them (64 lower the noise of the mean by half of 16)
    mean    ``"logits"``: margins are expected margins. ``"probabilities"``: the logarithm of the mean softmax, what an ensemble answers
    Draws come from the global generators of torch, NumPy or Python; a generator of the module's own is out of reach, and the check on random forwards
    tells. Where ``torch.vmap`` cannot map the forward, examples are evaluated one by one: right, and slow.
    Errors: InputError for anything but a module, draws below 1, another ``mean``.
    Reference: Athalye, Engstrom, Ilyas and Kwok, ICML 2018, arXiv 1707.07397 (expectation over transformation, from memory).

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    >>> _ = model[1].train()
    >>> fixed, x = averaged(model, draws=8), torch.rand(5, 3)
    >>> bool((fixed(x) == fixed(x)).all()), bool((model(x) == model(x)).all())
    (True, False)
    """
    if not isinstance(module, nn.Module):
        raise InputError("module", "a torch.nn.Module", type(module).__name__, "pass the model itself")
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "16 is a good choice")
    if mean not in MEANS:
        raise InputError("mean", " | ".join(MEANS), repr(mean), "choose one of these")
    awake = tuple(name for name, part in module.named_modules() if part.training and not _remembers(part))
    inner = copied(module)
    for part in inner.modules():
        object.__setattr__(part, "training", False)
    return Averaged(inner, draws, seed, mean, awake).eval()


def redrawn(network: Network, draws: int, seed: int) -> Network:
    """The same averaged network over other draws; parameters are shared. The network's module must be :class:`Averaged`."""
    quiet = network.quiet
    assert isinstance(quiet, Averaged)
    other = copy.copy(quiet)
    other.draws, other.seed = draws, seed
    fresh = Network(other)
    fresh._quiet = other
    return fresh


def _remembers(part: nn.Module) -> bool:
    """Normalisation by running statistics, which training mode would change."""
    return isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats


def _as_logits(mean: Tensor) -> Tensor:
    tiny = torch.finfo(mean.dtype).tiny
    if mean.shape[1] == 1:
        return mean.clamp_min(tiny).log() - (1 - mean).clamp_min(tiny).log()
    return mean.clamp_min(tiny).log()


# ---- the same numbers whatever the precision and the device -------------------------------------------------------


class SameInEveryPrecision(TorchFunctionMode):
    """Inside, uniform, normal and Bernoulli numbers, and dropout, are drawn in float32 on the CPU and cast to what was asked for.

    A float64 copy of a model would else draw other numbers from the same seed. Draws from a generator that is handed over are left alone, and so are
    other distributions: they agree wherever torch's own kernels do.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = kwargs or {}
        rule = RULES.get(getattr(func, "__name__", ""))
        if rule is None or named.get("generator") is not None:
            return func(*args, **named)
        answer = rule(*args, **named)
        return func(*args, **named) if answer is None else answer


def _numbers(kind: Callable, shape: Any, like: Tensor | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    with torch._C.DisableTorchFunction():
        drawn = kind(tuple(shape), dtype=torch.float32, device="cpu")
        dtype = dtype or (torch.get_default_dtype() if like is None else like.dtype)
        return drawn.to(device=device or (drawn.device if like is None else like.device), dtype=dtype)


def _fresh(kind: Callable) -> Callable:
    def rule(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **other: Any) -> Any:
        shape = other.get("size", size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        return None if requires_grad else _numbers(kind, shape, None, dtype, device)

    return rule


def _like(kind: Callable) -> Callable:
    return lambda value, dtype=None, device=None, **other: _numbers(kind, value.shape, value, dtype, device)


def _normal(mean: Any, std: Any = 1.0, size: Any = None, *, dtype: Any = None, device: Any = None, **other: Any) -> Any:
    if other.get("out") is not None:
        return None
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    shape = size if size is not None else torch.broadcast_shapes(*(v.shape for v in tensors))
    return mean + std * _numbers(torch.randn, shape, tensors[0] if tensors else None, dtype, device)


def _bernoulli(value: Tensor, p: float | None = None, **other: Any) -> Any:
    if other.get("out") is not None:
        return None
    hit = _numbers(torch.rand, value.shape, value, torch.float32) < (value if p is None else p)
    return hit.to(value.dtype)


def _bernoulli_(value: Tensor, p: Any = 0.5, **other: Any) -> Tensor:
    return value.copy_((_numbers(torch.rand, value.shape, value, torch.float32) < p).to(value.dtype))


def _normal_(value: Tensor, mean: float = 0.0, std: float = 1.0, **other: Any) -> Tensor:
    return value.copy_(mean + std * _numbers(torch.randn, value.shape, value))


def _uniform_(value: Tensor, low: float = 0.0, high: float = 1.0, **other: Any) -> Tensor:
    low, high = other.get("from", low), other.get("to", high)
    return value.copy_(low + (high - low) * _numbers(torch.rand, value.shape, value))


def _dropout(value: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, **other: Any) -> Any:
    return _dropped(value, value.shape, p) if other.get("train", training) and 0 < p < 1 else None


def _dropout_of_features(value: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Whole channels of a batch (1, C, ...): what an example alone is."""
    if not training or not 0 < p < 1 or value.dim() < 3:
        return None
    return _dropped(value, (*value.shape[:2], *(1 for _ in value.shape[2:])), p)


def _dropped(value: Tensor, shape: Any, p: float) -> Tensor:
    kept = _numbers(torch.rand, shape, value, torch.float32) >= p
    return value * kept.to(value.dtype) / (1 - p)


RULES: dict[str, Callable] = {
    "rand": _fresh(torch.rand),
    "randn": _fresh(torch.randn),
    "rand_like": _like(torch.rand),
    "randn_like": _like(torch.randn),
    "normal": _normal,
    "normal_": _normal_,
    "uniform_": _uniform_,
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "dropout": _dropout,
    "dropout1d": _dropout_of_features,
    "dropout2d": _dropout_of_features,
    "dropout3d": _dropout_of_features,
}
