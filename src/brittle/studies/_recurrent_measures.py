"""What the study ``recurrent`` measures of a network: accuracy, its matrices, its Jacobians along data, and what changes do to it."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import nn

from brittle.attacks.apgd import apgd
from brittle.cures.residual_rnn import ResidualCell
from brittle.executors._threads import one_thread
from brittle.problem import Problem
from brittle.questions.accuracy import accuracy
from brittle.questions.diagnose import diagnose
from brittle.spectra import (
    distance_to_instability,
    eigenvector_condition,
    henrici,
    kreiss,
    pseudospectral_radius,
    spectral_norm,
    spectral_radius,
)
from brittle.spectra.cells import cells
from brittle.spectra.growth import growth
from brittle.spectra.jacobians import jacobians
from brittle.spectra.trajectories import trajectories
from brittle.spectra.transient import power_norms
from brittle.studies._recurrent_nets import CELLS, TASKS, Reader, TokenReader, around, data

SIZE, SHARE = (
    0.2,
    0.05,
)  # of a change of every recurrent block: its spectral norm, and that as a share of the block's own
EPSILON = SIZE  # of the pseudospectral radius: the same change
DISK = 0.99  # the radius that matrices are compared at: Kreiss constants, transients and distances of unstable ones mean nothing
FOLLOWED = 12  # sequences whose Jacobians are read
SAMPLED = 5  # Jacobians among them whose pseudospectra are searched
ATTACKED = 100  # examples whose inputs are attacked
POWERS = 200


def opened(module: nn.Module, name: str) -> Problem:
    """The network on the examples that everything is measured on; words as the vectors that stand for them."""
    _, (x, labels) = data(name)
    if isinstance(module, TokenReader):
        return Problem(module.reader, module.embedded(x).detach(), labels)
    return Problem(module, x, labels)


def whole(module: nn.Module, name: str, form: str, seed: int) -> dict[str, object]:
    """Everything that is measured of a trained network."""
    problem = opened(module, name)
    with one_thread():
        found = robustness(problem, name, form, seed)
        return found | {"blocks": matrices(blocks(problem, form)), "data": along_data(problem)}


# ---- matrices --------------------------------------------------------------------------------------------------------


def blocks(problem: Problem, form: str) -> dict[str, np.ndarray]:
    """The square matrices of the recurrence: gate blocks; of the residual cells the linear part at rest, ``I + e (A + W)``."""
    reader = problem.network.quiet
    assert isinstance(reader, Reader)
    if form not in CELLS:
        return {name: block.numpy() for cell in cells(reader) for name, block in cell.blocks.items()}
    cell = reader.recurrent.get_submodule("cell")
    assert isinstance(cell, ResidualCell)
    total = cell.weight + cell.linear if form == "lipschitz" else cell.weight
    return {"": (torch.eye(cell.size) + cell.step * total).detach().double().numpy()}


def matrix(a: np.ndarray) -> dict[str, float | None]:
    """One matrix as it is, and scaled to radius 0.99, where a normal one has distance 0.01, Kreiss constant 1 and no transient."""
    radius, size = spectral_radius(a), spectral_norm(a)
    disk = a * (DISK / radius) if radius > 0 else a
    return {
        "radius": radius,
        "norm": size,
        "pseudospectral radius": pseudospectral_radius(a, EPSILON, tolerance=1e-2) if size > 0 else EPSILON,
        "distance": distance_to_instability(a, tolerance=1e-2),
        "henrici": henrici(a, relative=True),
        "condition": eigenvector_condition(a),
        "scaled distance": distance_to_instability(disk, tolerance=1e-2),
        "scaled kreiss": float(kreiss(disk, tolerance=0.1).lower),
        "scaled transient": float(power_norms(disk, POWERS).max()),
    }


def matrices(found: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    return {name: matrix(block) for name, block in found.items()}


WORST = {"distance": min, "scaled distance": min}


def worst(found: Mapping[str, Mapping[str, float | None]], quantity: str) -> float | None:
    """Of all blocks: the smallest distance, the largest of anything else."""
    values = [facts[quantity] for facts in found.values()]
    return WORST.get(quantity, max)([v for v in values if v is not None], default=None)  # type: ignore[operator,no-any-return]


def along_data(problem: Problem) -> dict[str, float | None]:
    """The Jacobians ``d state_t / d state_(t-1)`` that the first examples meet, and how small changes of the state grow over whole sequences."""
    module = problem.network.quiet
    assert isinstance(module, nn.Module)
    (path, *_) = trajectories(module, problem.inputs["x"][:FOLLOWED])
    with torch.no_grad():
        found = jacobians(path.cell, *path.points()).numpy()
    radii = np.abs(np.linalg.eigvals(found)).max(-1)
    chosen = [found[k] for k in np.linspace(0, len(found) - 1, SAMPLED).round().astype(int)]
    facts = [matrix(a) for a in chosen]
    grown = growth(path, windows=[1, path.inputs.shape[1]], starts=FOLLOWED, tolerance=1e-3)
    return {
        "mean radius": float(radii.mean()),
        "largest radius": float(radii.max()),
        "unstable share": float((radii >= 1).mean()),
        "norm": grown.median[0],
        "growth": grown.median[-1],
        **{name: _middle([f[name] for f in facts]) for name in ("distance", "pseudospectral radius", "scaled kreiss", "scaled transient")},
    }  # fmt: skip


def _middle(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


# ---- changes ---------------------------------------------------------------------------------------------------------


def robustness(problem: Problem, name: str, form: str, seed: int, draws: int = 10) -> dict[str, object]:
    """Accuracy as it is and after one change of the recurrent weights, of an absolute and of a relative size, and under an attack on the inputs."""
    leaves = {"antisymmetric": ["recurrent.cell.weight"], "lipschitz": ["recurrent.cell.weight", "recurrent.cell.linear"]}.get(form)  # fmt: skip
    found = diagnose(problem, "recurrent_changes", sizes=(SIZE,), shares=(SHARE,), draws=draws, leaves=leaves, seed=seed)  # fmt: skip
    rows = [dict(zip(found.columns, v, strict=True)) for v in zip(*found.columns.values(), strict=True)]
    word = {"absolute": "absolute", "relative": "relative", "state": "absolute", "share of the state": "relative"}
    changes = {f"{r['change']} {word[r['measured_in']]}": r["accuracy"] for r in rows if r["change"] != "int8"}
    few = problem.take(torch.arange(min(ATTACKED, len(problem))))
    moved = few.within({"x": around(TASKS[name])})
    left = accuracy(moved, ends="upper", attacks=[partial(apgd, steps=20, restarts=1)], seed=seed)
    right = lambda p: float((p.margin() > 0).double().mean())
    return {
        "clean": right(problem),
        "clean few": right(few),
        "changes": changes,
        "int8": next(r["accuracy"] for r in rows if r["change"] == "int8"),
        "input": float(left.upper),
    }
