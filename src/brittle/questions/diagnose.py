"""Why is the network brittle? One diagnostic by name."""

import inspect

from brittle.discovery import check_options, method
from brittle.problem import Problem
from brittle.results import Finding


def diagnose(problem: Problem, name: str, *, seed: int = 0, **options: object) -> Finding:
    """The Finding of the diagnostic ``name``: columns with one value per example (or per layer), and one plain sentence.

    options : of that diagnostic; ``brittle list diagnostics`` names them all, their docstrings say what they take.
    Errors: InputError for an unknown diagnostic or option, naming those that there are.
    """
    found = method("diagnostics", name)
    check_options(found.function, options)
    if "attack" in inspect.signature(found.function).parameters and "attack" not in options:
        options["attack"] = method(
            "attacks", "apgd"
        )  # families do not import each other: an attack arrives as an argument
    return found(problem, seed=seed, **options)
