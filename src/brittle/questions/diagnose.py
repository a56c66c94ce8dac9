"""Why is the network brittle? One diagnostic by name."""

import inspect
from collections.abc import Callable
from functools import partial

from brittle.discovery import check_options, method
from brittle.noise.cell import cell
from brittle.problem import Problem
from brittle.questions._rivals import rivals
from brittle.questions.accuracy import accuracy
from brittle.questions.margin import margin
from brittle.questions.optimum import optimum
from brittle.questions.probability import probability
from brittle.questions.radius import radius
from brittle.questions.spectrum import spectrum
from brittle.questions.tolerated_noise import tolerated_noise
from brittle.results import Finding


def diagnose(problem: Problem, name: str, *, seed: int = 0, **options: object) -> Finding:
    """The Finding of the diagnostic ``name``: columns with one value per example (or per layer), and one plain sentence.

    An explanation, never a proof: what a column means and what it costs is told by the diagnostic's own docstring. An audit
    runs those that declare an effort, on the first 64 examples and without options.

    options : of that diagnostic; ``brittle list diagnostics`` names them all, their docstrings say what they take.
    Errors: InputError for an unknown diagnostic or option, naming those that there are.

    >>> import torch
    >>> from brittle import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = Problem(linear, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), Ball(p=2, radius=1.0))
    >>> found = diagnose(problem, "compression")
    >>> found.columns["predicted_radius"].tolist(), found.columns["status"]  # 6 / 5 and 4 / 5
    ([1.2, 0.8], ['ok', 'ok'])
    """
    found = method("diagnostics", name)
    check_options(found.function, options)
    return found(problem, seed=seed, **{**tools(found.function, seed), **options})


def tools(function: Callable, seed: int) -> dict[str, Callable]:
    """What a diagnostic or a check needs of other families arrives as an argument: an attack on the margin, verbs, a bound under noise."""
    known = {
        "attack": method("attacks", "apgd"),
        "smallest": partial(radius, effort="quick", ends="upper", seed=seed),
        "radius": partial(radius, effort="quick", seed=seed),
        "accuracy": partial(accuracy, effort="quick", seed=seed),
        "margin": partial(margin, effort="quick", seed=seed),
        "probability": probability,
        "paper_bound": partial(probability, ends="upper", estimators=[partial(cell, distances="nearest")]),
        "tolerated": tolerated_noise,
        "optimum": optimum,
        "spectrum": spectrum,
        "rivals": rivals,
    }
    takes = inspect.signature(
        function
    ).parameters  # an option may bear the name of a tool: only what may be called is passed one
    return {name: tool for name, tool in known.items() if name in takes and "Callable" in str(takes[name].annotation)}
