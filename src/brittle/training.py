"""The one training loop: a loss, weighted penalties, and a trained copy. Whatever a cure needs beside that is a penalty."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.errors import InputError
from brittle.evidence import Cost
from brittle.executors._threads import one_thread
from brittle.network import Network, copied
from brittle.penalties._live import at_rest
from brittle.penalties._losses import Loss, mean_loss
from brittle.penalties._terms import Penalties, Term, read_terms
from brittle.problem import Problem
from brittle.progress import reporter
from brittle.randomness import fold, generator
from brittle.region import Ball, Region
from brittle.spec import Specification
from brittle.stepping import Optimiser, Schedule, scheduled, stepper

Inputs = Tensor | Mapping[str, Tensor]
Monitor = Callable[[int, nn.Module], Mapping[str, float]]
SEEN = 1024  # training examples that loss and accuracy are measured on after an epoch, where nothing else is given


@dataclass(frozen=True, eq=False)
class Training:
    """What training left.

    module    the trained copy, in evaluation mode; the module that was given is untouched
    history   columns with one number per epoch that was judged (``judge_every``; all of them by default): "epoch", "rate", "total" (the mean of what was minimised), one per penalty (its mean,
              unweighted), "loss" and "accuracy" (at rest after the epoch, on the validation data or on the first 1,024 training
              examples), whatever a monitor returned, and "seconds"
    epoch     the epoch whose weights ``module`` has: the last, or with ``patience`` the one of smallest validation loss
    settings  everything that was asked, as plain values
    cost      passes per training example over all epochs, and seconds
    """

    module: nn.Module
    history: Mapping[str, list[float]]
    epoch: int
    settings: Mapping[str, object]
    cost: Cost

    def __repr__(self) -> str:
        at = self.history["epoch"].index(self.epoch)
        return f"Training({self.epoch} epochs: loss {self.history['loss'][at]:.4g}, accuracy {self.history['accuracy'][at]:.4g})"


def train(
    module: nn.Module,
    x: Inputs,
    labels: Tensor,
    *,
    loss: Loss = "cross-entropy",
    penalties: Penalties | None = None,
    clean_weight: float = 1.0,
    region: Ball | Region | None = None,
    spec: Specification | None = None,
    epochs: int = 30,
    batch: int | None = 64,
    optimiser: Optimiser = "adam",
    rate: float = 1e-3,
    momentum: float = 0.0,
    schedule: Schedule = "cosine",
    warm_up: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    clip: float | None = None,
    validation: float | tuple[Inputs, Tensor] | None = None,
    patience: int | None = None,
    judge_every: int = 1,
    seed: int = 0,
    monitor: Monitor | None = None,
    progress: bool = False,
) -> Training:
    """Train a copy of ``module`` from the weights it has: minimise ``clean_weight * loss + sum_k weight_k * penalty_k``.

    The result depends on the seed, the data and these settings alone: batches are permutations drawn from the seed, penalties
    draw from the seed and the step, dropout from torch's global state, which is seeded inside and put back. One thread is used.
    An epoch is cut into ``ceil(N / batch)`` batches whose sizes differ by at most one.

    loss          "cross-entropy" (one logit: logistic), "squared" (to one-hot targets; one logit: to -1 and +1), or a function of
                  logits (N, C) and labels (N,) that returns a scalar or (N,)
    penalties     ``{"jacobian": 0.1}`` or ``{"adversarial": {"weight": 1.0, "radius": 0.1, "p": inf, "warm_up": 5}}``: a weight, or a weight and
                  options; ``warm_up`` grows the weight, ``radius_warm_up`` the region, linearly from 0 over that many epochs
    clean_weight  of the loss at the given inputs; 0 leaves it out (pure adversarial training)
    region, spec  of the problem that penalties see: what moves, and its valid range
    batch         examples per step; None takes all of them
    optimiser     "adam", "sgd" (with ``momentum``), or a function from the parameters to a torch optimiser, whose own rate then counts
    schedule      "cosine" (to 0), "constant", or a function from progress in [0, 1] to a factor; ``warm_up`` epochs of linear growth before it
    weight_decay  ``decoupled`` shrinks every parameter by ``rate * weight_decay`` a step (AdamW), else it is added to the gradient
    clip          largest l2 norm of a step's gradient
    validation    a fraction of the data to hold out, or (x, labels)
    patience      stop after so many epochs without a smaller validation loss, and keep the weights of the best epoch
    judge_every   loss and accuracy are measured after every so many epochs and after the last; the weights are the same for any number (but
                  for the best epoch that ``patience`` keeps). With whole batches of few examples judging is a quarter of the time
    monitor       called as ``monitor(epoch, module)`` after every epoch that is judged, the module at rest; the numbers it returns become columns

    Errors: InputError for data or options that do not fit, and where a loss stops being finite, naming the term.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> done = train(nn.Linear(1, 2), x, torch.tensor([0, 0, 1, 1]), epochs=200, rate=0.1, penalties={"jacobian": 1e-3})
    >>> done.history["accuracy"][-1], sorted(done.history)[:3]
    (1.0, ['accuracy', 'epoch', 'jacobian'])
    """
    settings = {k: _plain(v) for k, v in locals().items() if k not in ("module", "x", "labels", "progress")}
    _check(module, epochs, batch, patience, judge_every, validation, {"rate": rate, "weight_decay": weight_decay, "warm_up": warm_up,
           "momentum": momentum, "clean_weight": clean_weight})  # fmt: skip
    terms = read_terms(penalties, loss)
    if clean_weight == 0 and not terms:
        raise InputError("training", "something to minimise", "clean_weight 0 and no penalties", "give one of them")
    copy = copied(module)
    live, held = _problems(module, copy, x, labels, region, spec, validation, seed)
    weights = _trainable(copy)
    step = stepper(weights, optimiser, rate, momentum, weight_decay, decoupled, clip)
    factor = scheduled(schedule, epochs, warm_up)
    batches = 1 if batch is None else math.ceil(len(live) / batch)
    history: dict[str, list[float]] = {}
    best: tuple[float, int, dict[str, Tensor]] | None = None
    with _own_state(live, seed), meter.measure() as passes, reporter(epochs, show=progress, what="training") as advance:
        started = time.perf_counter()
        for epoch in range(epochs):
            _training_mode(copy, True)
            means, now = _epoch(live, terms, loss, clean_weight, step, factor, epoch, batches, seed)
            if (epoch + 1) % judge_every and epoch + 1 < epochs:
                advance("")
                continue
            row = {"epoch": epoch + 1.0, "rate": now, **means, **_measured(held, loss)}
            row |= _monitored(monitor, epoch + 1, copy, live)
            _append(history, {**row, "seconds": time.perf_counter() - started})
            started = time.perf_counter()
            advance(f"loss {row['loss']:.4g}, accuracy {row['accuracy']:.1%}")
            if patience is None:
                continue
            if best is None or row["loss"] < best[0]:
                best = row["loss"], epoch + 1, {k: v.clone() for k, v in copy.state_dict().items()}
            elif epoch + 1 - best[1] >= patience:
                break
    if best is not None:
        copy.load_state_dict(best[2])
    _training_mode(copy, False)
    cost = Cost(passes.forward / len(live), passes.backward / len(live), passes.seconds)
    return Training(_without_gradients(copy), history, best[1] if best else int(history["epoch"][-1]), settings, cost)


def harden(
    module: nn.Module,
    data: tuple[Inputs, Tensor],
    penalties: Penalties,
    *,
    region: Ball | Region | None = None,
    clean_weight: float = 1.0,
    epochs: int = 30,
    batch: int | None = 64,
    rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> nn.Module:
    """A cured copy of ``module``: trained on from the weights it has, with any of the penalties. It is in evaluation mode.

    Nothing is promised about the copy: measure it with the same brackets as the original (``bt.radius``, ``bt.accuracy``). ``brittle list
    penalties`` names the penalties, :func:`train` documents the options and returns the history too.

    data       (x, labels) to train on
    penalties  ``{"adversarial": {"radius": 0.3, "p": 2}}``: a weight, or a weight and options, by name
    region     what moves and its valid range, for penalties that ask: ``bt.Ball(p=2, radius=0.3, low=0, high=1)``. Against weights that move with the input:
               ``{"x": bt.Ball(p=inf, radius=0.05, low=0, high=1), "*.weight": bt.Ball(p=inf, radius=0.01)}`` with
               ``penalties={"joint_ibp": {"weight": 1.0, "warm_up": 40, "radius_warm_up": 40}}, epochs=80, rate=8e-3``, which
               :func:`brittle.penalties.joint_ibp.joint_ibp` explains

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.2], [2.0, 0.0], [3.0, 0.2]])
    >>> cured = harden(nn.Linear(2, 2), (x, torch.tensor([0, 0, 1, 1])), {"adversarial": {"radius": 0.2, "p": 2}}, epochs=5)
    >>> cured.training
    False
    """
    if not penalties:
        raise InputError("harden", "at least one penalty", "none", 'write for example penalties={"jacobian": 0.1}')
    if not (isinstance(data, tuple) and len(data) == 2):
        raise InputError("data", "a pair (x, labels)", type(data).__name__, "pass both tensors")
    return train(
        module, data[0], data[1], penalties=penalties, region=region, clean_weight=clean_weight, epochs=epochs, batch=batch,
        rate=rate, seed=seed, progress=progress,
    ).module  # fmt: skip


# ---- one epoch -----------------------------------------------------------------------------------------------------


def _epoch(
    live: Problem, terms: tuple[Term, ...], loss: Loss, clean_weight: float, step: Callable[[float], float],
    factor: Callable[[float], float], epoch: int, batches: int, seed: int,
) -> tuple[dict[str, float], float]:  # fmt: skip
    """Mean of the total and of every penalty over the examples of one epoch, and the last rate."""
    order = torch.randperm(len(live), generator=generator(seed, "batches", epoch))
    sums = dict.fromkeys(("total", *(t.name for t in terms)), 0.0)
    now = 0.0
    for k, at in enumerate(order.tensor_split(batches)):
        done = epoch + k / batches
        values = _values(live.take(at), terms, loss, clean_weight, done, seed, epoch * batches + k)
        weighted = [(clean_weight if n == "loss" else _named(terms, n).weight_at(done)) * v for n, v in values.items()]
        total = torch.stack(weighted).sum()
        _check_finite(total, values, epoch)
        total.backward()
        now = step(factor(done + 0.5 / batches))
        for name, value in {**values, "total": total}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(at) / len(live)
    return {name: value for name, value in sums.items() if name != "loss"}, now


def _values(
    problem: Problem, terms: tuple[Term, ...], loss: Loss, clean_weight: float, done: float, seed: int, step: int
) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    if clean_weight > 0:
        values["loss"] = mean_loss(loss, problem.logits(), problem.labels)
        meter.count(backward=len(problem))
    return values | {term.name: term.value(problem, done, seed, step) for term in terms}


def _named(terms: tuple[Term, ...], name: str) -> Term:
    return next(t for t in terms if t.name == name)


def _check_finite(total: Tensor, values: Mapping[str, Tensor], epoch: int) -> None:
    if bool(total.isfinite()):
        return
    told = ", ".join(f"{name} {float(v.detach()):.4g}" for name, v in values.items())
    raise InputError(
        "training", "a finite objective", f"{told} in epoch {epoch + 1}",
        "lower rate, clip the gradient with clip=1.0, or lower the weight of the term that grew",
    )  # fmt: skip


def _measured(held: Problem, loss: Loss) -> dict[str, float]:
    with torch.no_grad(), at_rest(held):
        logits = held.logits()
        rows = held.spec.rows(logits, held.labels)
        right = (rows.kthvalue(held.spec.rank, 1).values > 0).to(torch.float64).mean()
        return {"loss": float(mean_loss(loss, logits, held.labels)), "accuracy": float(right)}


def _monitored(monitor: Monitor | None, epoch: int, copy: nn.Module, live: Problem) -> dict[str, float]:
    if monitor is None:
        return {}
    with at_rest(live), torch.random.fork_rng(devices=_devices(live)):
        found = monitor(epoch, copy)
    return {name: float(value) for name, value in found.items()}


def _append(history: dict[str, list[float]], row: Mapping[str, float]) -> None:
    if history and set(row) != set(history):
        raise InputError("monitor", f"the columns {sorted(history)}", sorted(row), "return the same names every epoch")
    for name, value in row.items():
        history.setdefault(name, []).append(value)


# ---- the problem that penalties see ----------------------------------------------------------------------------------


def _problems(
    module: nn.Module, copy: nn.Module, x: Inputs, labels: Tensor, region: Ball | Region | None, spec: Specification | None,
    validation: float | tuple[Inputs, Tensor] | None, seed: int,
) -> tuple[Problem, Problem]:  # fmt: skip
    """The training problem and the one that an epoch is judged on, both holding the live copy."""
    whole = Problem(module, x, labels, region, spec)  # checks everything, on a quiet copy
    network = Network.live(copy)
    alive = lambda problem: replace(problem, module=copy, network=network)
    if validation is None:
        return alive(whole), alive(whole.take(torch.arange(min(SEEN, len(whole)))))
    if isinstance(validation, tuple):
        return alive(whole), alive(Problem(module, *validation, region, spec, network=whole.network))
    kept = len(whole) - round(validation * len(whole))
    order = torch.randperm(len(whole), generator=generator(seed, "validation"))
    if not 0 < kept < len(whole):
        raise InputError("validation", "a fraction that leaves examples on both sides", validation, "use about 0.1")
    return alive(whole.take(order[:kept].sort().values)), alive(whole.take(order[kept:].sort().values))


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    found = [p for p in module.parameters() if p.requires_grad]
    if not found:
        raise InputError("training", "parameters that require gradients", "none", "call module.requires_grad_(True)")
    return found


def _training_mode(module: nn.Module, on: bool) -> None:
    for child in module.modules():
        object.__setattr__(child, "training", on)  # an exported program refuses .train()


def _without_gradients(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.grad = None
    return module


def _devices(problem: Problem) -> list[int]:
    return [problem.device.index or 0] if problem.device.type == "cuda" else []


@contextmanager
def _own_state(live: Problem, seed: int) -> Iterator[None]:
    """One thread, and torch's global random state seeded from ours; both as they were afterwards."""
    with one_thread(), torch.random.fork_rng(devices=_devices(live)), torch.enable_grad():
        torch.manual_seed(fold(seed, "training"))
        yield


def _check(
    module: object,
    epochs: int,
    batch: int | None,
    patience: int | None,
    judge_every: int,
    validation: object,
    numbers: Mapping[str, float],
) -> None:
    if not isinstance(module, nn.Module):
        raise InputError("module", "a torch.nn.Module", type(module).__name__, "pass the module that holds the weights")
    if epochs < 1 or (batch is not None and batch < 1) or (patience is not None and patience < 1):
        raise InputError("training", "epochs, batch and patience >= 1", (epochs, batch, patience), "correct them")
    if judge_every < 1:
        raise InputError("judge_every", "a number of epochs >= 1", judge_every, "use epochs to judge only at the end")
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise InputError(name, "a finite number >= 0", value, "correct it")
    if patience is not None and validation is None:
        raise InputError("patience", "validation data to judge by", "none", "give validation=0.1 or (x, labels)")


def _plain(value: object) -> object:
    """A setting for the record: numbers, texts and what is made of them; anything else by its description."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return getattr(value, "__name__", None) or (
        f"{len(value[1])} examples" if isinstance(value, tuple) else repr(value)
    )
