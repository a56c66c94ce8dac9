"""Attacks of other libraries, asked brittle's question: every query is tracked, every point is judged as one of our own."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.attacks._search import Tracker, margin_witness, radius_witness, sizes
from brittle.errors import InputError
from brittle.network import read_logits
from brittle.problem import Problem
from brittle.randomness import fold, seeded
from brittle.results import Witness

ROUNDED = (
    1 + 1e-4
)  # points that a library put on the surface in float32; the witness is settled inside the region and re-measured
LIBRARIES = ("foolbox", "torchattacks", "art")


@dataclass(frozen=True)
class Foreign:
    """An attack as :func:`foreign` makes it: call it with a problem, or give it to a verb in ``attacks=[...]``."""

    attack: Any
    library: str
    answers: str
    __name__: str

    def __call__(self, problem: Problem, *, seed: int = 0, start: object = None) -> Witness:
        x, ball = _question(problem)
        tracker = Tracker.of(problem, self.answers)
        watched = _Watched(problem, tracker)
        with seeded(fold(seed, "foreign", self.__name__)):
            try:
                found = _points(CALLS[self.library](self, watched, problem, ball), x, self.__name__)
            except InputError:
                raise
            except Exception as reason:  # whatever another library raises
                raise InputError(
                    f"foreign attack {self.__name__}",
                    "a call that returns a batch of inputs",
                    f"{type(reason).__name__}: {str(reason).strip() or 'no message'}",
                    "run it on the model alone first; brittle passes a float32 or float64 module, inputs and integer labels",
                ) from reason
            with torch.no_grad():
                low, high = ball.range(x)
                inside = torch.minimum(torch.maximum(found, low), high)
                watched(problem.project({"x": inside})["x"] if self.answers == "margin" else inside)
        finish = radius_witness if self.answers == "radius" else margin_witness
        return finish(problem, tracker, self.__name__)


def foreign(attack: Any, *, answers: str = "radius", library: str | None = None, name: str | None = None) -> Foreign:
    """An attack of another library, or your own, as one of brittle's.

    It is given a module, the inputs and the labels, and returns inputs. Every batch it asks the module about is seen on the way, so the
    answer is the best point that it ever queried, not the last; then the point is shortened to the boundary (``answers="radius"``),
    made representable and feasible, and judged in its own dtype and in float64 like every witness. Passes are counted where they happen.

    attack   a callable ``(model, inputs, labels) -> inputs`` (functions of adv-lib are such); an attack object of Foolbox, torchattacks
             or ART, whose model or estimator (and that of every attack it is made of) is replaced by the one in question, in a copy.
             Options of a function go in beforehand: ``foreign(functools.partial(ddn, steps=50))``
    answers  ``"radius"``: the nearest failing point, for ``bt.radius``. ``"margin"``: the smallest margin inside the region, for ``bt.margin``
             and ``bt.accuracy``. What is returned outside is projected
    library  ``"foolbox"``, ``"torchattacks"``, ``"art"`` or ``"callable"``; read off the object by default
    name     how witnesses call it; the attack's own name by default

    What it draws at random comes from the global generators, seeded here by ``seed`` and put back; so its answer may depend on which examples are asked
    together, which no attack of brittle's does. A batch of another size than the examples (a library that drops the finished ones)
    is passed through and not tracked. Models with one logit are shown as two, (0, logit).

    Errors: InputError where anything but the input ``"x"`` moves, for an attack that raises, returns no batch of the inputs' shape, or NaN;
    Foolbox and ART need the ball's low and high.

    >>> from brittle.questions.radius import radius
    >>> from brittle.region import Ball
    >>> def sign_step(model, inputs, labels):
    ...     inputs = inputs.clone().requires_grad_()
    ...     loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    ...     return inputs + torch.autograd.grad(loss, inputs)[0].sign()
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = Problem(linear, torch.tensor([[0.5, 0.0]]), torch.tensor([0]), Ball(p=torch.inf, radius=1.0))
    >>> round(float(radius(problem, attacks=[foreign(sign_step)], ends="upper").upper), 4)  # 1.5 / 7
    0.2143
    """
    found = next(
        (n for n in LIBRARIES if any(c.__module__.split(".")[0] == n for c in type(attack).__mro__)), "callable"
    )
    library = found if library is None else library
    if library not in CALLS:
        raise InputError("foreign.library", f"one of {', '.join(CALLS)}", repr(library), "leave it out")
    if answers not in ("radius", "margin"):
        raise InputError("foreign.answers", '"radius" or "margin"', repr(answers), "choose one of the two")
    if isinstance(attack, type):
        raise InputError(
            "foreign attack",
            "an attack that is ready to run",
            f"the class {attack.__name__}",
            f"make one of it: bt.foreign({attack.__name__}(...))",
        )
    if not callable(attack) and not hasattr(attack, "generate"):
        raise InputError(
            "foreign attack",
            "a callable (model, inputs, labels) -> inputs",
            type(attack).__name__,
            "wrap it in a function",
        )
    own = getattr(getattr(attack, "func", attack), "__name__", type(attack).__name__)
    return Foreign(attack, library, answers, name or own)


class _Watched(nn.Module):
    """The quiet copy as a module of its own: counts passes and shows every whole batch to the tracker."""

    def __init__(self, problem: Problem, tracker: Tracker) -> None:
        super().__init__()
        self.module = problem.network.quiet
        self._problem, self._tracker = problem, tracker
        low, high = problem.region["x"].exact_range(problem.centre["x"])
        self._low, self._high = low, high
        super().train(False)

    def train(self, mode: bool = True) -> "_Watched":
        """Stays at rest, whatever a library switches."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        problem = self._problem
        x = x.to(problem.inputs["x"].dtype)  # libraries on NumPy arrays ask in float64
        logits = read_logits(problem.network.run(lambda: self.module(x)))
        meter.count(forward=len(x))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: meter.count(backward=len(gradient)))
        if x.shape == problem.centre["x"].shape:
            self._see(x.detach(), logits.detach())
        return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits

    def _see(self, x: Tensor, logits: Tensor) -> None:
        problem, point = self._problem, {"x": x}
        rows = problem.spec.rows(logits, problem.labels)
        allowed = ((x >= self._low) & (x <= self._high)).flatten(1).all(1)
        if self._tracker.answers == "margin":
            allowed &= sizes(problem, point).to(torch.float64) <= problem.scale.to(x.device) * ROUNDED
        self._tracker.see(point, rows, allowed)


class _Shaped(nn.Module):
    """A model of inputs of any shape, shown images."""

    def __init__(self, model: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.reshape(-1, *self.shape))


def _question(problem: Problem) -> tuple[Tensor, Any]:
    if problem.leaves != ("x",) or not isinstance(problem.x, Tensor):
        raise InputError(
            "foreign attack",
            'a region of the one input "x"',
            ", ".join(problem.leaves),
            "other libraries move inputs only; use attacks of brittle for weights and keyword inputs",
        )
    return problem.x, problem.region["x"]


def _points(returned: Any, x: Tensor, name: str) -> Tensor:
    """The batch out of what a library returned: a tensor, an array, or a tuple whose first batch of the right shape it is."""
    for value in returned if isinstance(returned, (tuple, list)) else (returned,):
        value = getattr(value, "raw", value)  # eagerpy
        if value is None:
            continue
        value = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if value.shape == x.shape:
            return _finite(value.detach().to(x), name)
    raise InputError(
        f"foreign attack {name}",
        f"inputs of shape {tuple(x.shape)}",
        f"a {type(returned).__name__}" + (f" of shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else ""),
        "return the perturbed batch",
    )


def _finite(found: Tensor, name: str) -> Tensor:
    lost = (~found.isfinite()).flatten(1).any(1)
    if not bool(lost.any()):
        return found
    count, first = int(lost.sum()), int(lost.nonzero()[0, 0])
    raise InputError(
        f"foreign attack {name}",
        "finite inputs",
        f"NaN or infinity in {count} of {len(found)} examples, the first number {first}",
        "find what divides by zero in it; return the clean input where it found nothing",
    )


def _copies(problem: Problem) -> tuple[Tensor, Tensor]:
    """Inputs and labels of their own memory: attacks write into what they are given."""
    return problem.inputs["x"].detach().clone(), problem.labels.clone()


def _rewired(attack: Any, kind: type, told: dict[str, Any], seen: dict[int, Any]) -> Any:
    """A copy of an attack and of all attacks that it is made of, with another model; what the user holds stays as it is."""
    if id(attack) not in seen:
        twin = seen[id(attack)] = copy.copy(attack)
        again = lambda value: _rewired(value, kind, told, seen) if isinstance(value, kind) else value
        for name, value in vars(attack).items():
            if isinstance(value, dict):
                value = type(value)((k, again(v)) for k, v in value.items())
            elif type(value) in (list, tuple):
                value = type(value)(map(again, value))
            vars(twin)[name] = again(value)
        vars(twin).update(told)
    return seen[id(attack)]


def _plain(it: Foreign, model: nn.Module, problem: Problem, ball: Any) -> Any:
    return it.attack(model, *_copies(problem))


def _bounds(ball: Any) -> tuple[float, float]:
    if not all(isinstance(v, (int, float)) for v in (ball.low, ball.high)):
        raise InputError(
            "foreign attack", "a ball with numbers as low and high", ball, "give the valid range: low=0, high=1"
        )
    return float(ball.low), float(ball.high)


def _radius(problem: Problem, ball: Any) -> float:
    return float(ball.radius * problem.scale.max())


def _foolbox(it: Foreign, model: nn.Module, problem: Problem, ball: Any) -> Any:
    """Minimisation attacks run without a budget, the others at the region's radius."""
    import foolbox  # type: ignore[import-not-found]

    minimises = isinstance(it.attack, foolbox.attacks.base.MinimizationAttack) and it.answers == "radius"
    wrapped = foolbox.PyTorchModel(model, bounds=_bounds(ball), device=problem.device)
    return it.attack(wrapped, *_copies(problem), epsilons=None if minimises else _radius(problem, ball))


def _torchattacks(it: Foreign, model: nn.Module, problem: Problem, ball: Any) -> Any:
    from torchattacks.attack import Attack  # type: ignore[import-not-found]

    x, labels = _copies(problem)
    images = x.reshape(*x.shape, *(1 for _ in range(x.dim(), 4)))  # some of its attacks index four axes
    shown = _Shaped(model, x.shape[1:]).train(False)
    found = _rewired(it.attack, Attack, {"model": shown, "device": problem.device}, {})(images, labels)
    return found.reshape(x.shape)


def _art(it: Foreign, model: nn.Module, problem: Problem, ball: Any) -> Any:
    from art.attacks.attack import EvasionAttack  # type: ignore[import-not-found]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]

    classes = max(2, problem.clean_logits().shape[1])
    loss, shape = nn.CrossEntropyLoss(), tuple(problem.inputs["x"].shape[1:])
    device = "gpu" if problem.device.type == "cuda" else "cpu"
    classifier = PyTorchClassifier(model, loss, shape, classes, clip_values=_bounds(ball), device_type=device)
    attack = _rewired(it.attack, EvasionAttack, {"_estimator": classifier}, {})
    x, labels = _copies(problem)
    return attack.generate(x=x.cpu().numpy(), y=labels.cpu().numpy())


CALLS: dict[str, Callable] = {"callable": _plain, "foolbox": _foolbox, "torchattacks": _torchattacks, "art": _art}
