"""The cells of the study ``recurrent``: train one network and measure it, plainly with every normalisation, or in one other way."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from brittle.cures.normalise import normalise
from brittle.executors._threads import one_thread
from brittle.randomness import fold
from brittle.spectra import contours
from brittle.spectra.power_method import power_method
from brittle.studies._recurrent_measures import along_data, blocks, matrices, opened, robustness, whole
from brittle.studies._recurrent_nets import RECIPES, TASKS, network, trained

ROBUST = 0.05  # epsilon of the robust normalisation
WAYS = ("none", "radius", "norm", "robust", "power")
LEVELS = (0.05, 0.1, 0.2)
DRAWN = {"tanh": "", "gru": "n", "lstm": "g"}  # the block of a picture: that of the candidate state
PICTURES = ("none", "radius", "robust")
DRAWS = 4


def plain(name: str, kind: str, run: int, seed: int) -> dict:
    """Train one network plainly, normalise it in every way, and measure each result."""
    module = trained(name, kind, RECIPES["none"], run, seed)
    variants = {how: module if how == "none" else normalise(module, how, epsilon=ROBUST) for how in WAYS}
    drawn = network(TASKS[name], kind, "plain", fold(seed, "recurrent", name, kind, run))
    found: dict[str, object] = {"start": matrices(blocks(opened(drawn, name), "plain"))}
    found["variants"] = {how: whole(m, name, "plain", seed) for how, m in variants.items() if how != "power"}
    with one_thread():
        found["power"] = powers(variants["power"], module, name, seed)
    if run == 0 and name == "digits":
        found["pictures"] = {how: picture(variants[how], name, kind) for how in PICTURES}
    return found


def powers(scaled: nn.Module, module: nn.Module, name: str, seed: int) -> dict:
    """The paper's own normalisation: by which rule each block's radius was found, and what is left."""
    rules = {gate: power_method(block).rule for gate, block in blocks(opened(module, name), "plain").items()}
    problem = opened(scaled, name)
    return {"rules": rules, "clean": float((problem.margin() > 0).double().mean())}


def picture(module: nn.Module, name: str, kind: str) -> dict[str, list]:
    """Eigenvalues and the boundaries of three pseudospectra of one block."""
    made = contours(_drawn(blocks(opened(module, name), "plain"), kind), LEVELS, points=70)
    lines = [np.concatenate(lines or (np.zeros((0, 2)),)).round(3) for lines in made.lines]
    return {
        "eigenvalues": [np.real(made.eigenvalues).round(4).tolist(), np.imag(made.eigenvalues).round(4).tolist()],
        "lines": [line.T.tolist() for line in lines],
    }


def _drawn(found: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    return found[DRAWN[kind]] if DRAWN[kind] in found else next(iter(found.values()))


def cure(name: str, kind: str, recipe: str, run: int, seed: int) -> dict:
    """Train one network in one way and measure it."""
    form = RECIPES[recipe].form
    module = trained(name, kind, RECIPES[recipe], run, seed)
    problem = opened(module, name)
    with one_thread():
        found = robustness(problem, name, form, seed, draws=DRAWS)
        return found | {"blocks": matrices(blocks(problem, form)), "data": along_data(problem)}
