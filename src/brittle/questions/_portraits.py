"""Findings about recurrent matrices, fixed points and trajectories, with null models beside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from brittle.questions import _verdicts as verdicts
from brittle.questions._matrices import FORMATS, MEAN, Matrix
from brittle.results import Finding
from brittle.spectra import _portrait as portrait
from brittle.spectra._cells import Cell
from brittle.spectra._portrait import QUANTITIES, Effort
from brittle.spectra.fixed_points import FixedPoints
from brittle.spectra.growth import growth
from brittle.spectra.jacobians import jacobians
from brittle.spectra.lyapunov import lyapunov
from brittle.spectra.trajectories import Trajectory

Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]
NULLS = ("normal, same eigenvalues", "random, same radius", "untrained, same radius")


def described(chosen: Sequence[Matrix], budget: Effort, seed: int, progress: Progress | None) -> dict[str, Finding]:
    """The findings on matrices and their nulls."""
    rows, nulls, drawn = [], [], {}
    with progress(len(chosen)) if progress is not None else nullcontext(lambda label: None) as advance:
        for matrix in chosen:
            row, beside = _one(matrix, budget, seed, drawn)
            rows.append(row)
            nulls += beside
            advance(matrix.name)
    found = Finding(
        "matrices",
        "Recurrent matrices: stability, robustness, transient growth",
        _columns(rows),
        ("matrix", "radius", "norm"),
        note=" ".join(_summary(rows)),
    )
    beside = Finding("null models", "The same quantities of matrices that were not trained", _columns(nulls))
    return {"matrices": found, "null models": beside}


def _one(matrix: Matrix, budget: Effort, seed: int, drawn: dict) -> tuple[dict, list[dict]]:
    """One matrix with its quantities, pictures, percentiles and verdict; and a row per null model."""
    a = matrix.value.numpy()
    found = portrait.quantities(a, budget)
    radius, norm = float(found["radius"] or 0), float(found["norm"] or 0)
    random = _random(len(a), radius, budget, seed, drawn)
    fresh = [
        portrait.quantities(portrait.scaled_to(w.numpy(), radius or 1.0), _plain(budget))
        for w in matrix.untrained[: budget.close]
    ]
    departures = [portrait.henrici(w.numpy(), relative=True) for w in matrix.untrained]
    shares = [portrait.percentile(float(found["henrici"] or 0), others) for others in (random[0], departures)]
    beside = {"random matrices": (shares[0], len(random[0])), "untrained copies": (shares[1], len(departures))}
    told = {**found, "stability": verdicts.stability(radius, norm)}
    row = {
        "matrix": matrix.name, "part": matrix.part, "role": matrix.role, "size": len(a), **told,
        "percentile_random": shares[0], "percentile_untrained": shares[1],
        **{f"rounding_{f}": matrix.rounding.get(f) for f in FORMATS},
        "verdict": verdicts.of_matrix(matrix.name, matrix.role, told, matrix.rounding, beside),
        **portrait.picture(a, budget, float(found["scale"] or 1), int(found["settled"] or 1)),
    }  # fmt: skip
    models = (portrait.normal_like(found), portrait.medians(random[1]), portrait.medians(fresh))
    counts = (1, len(random[1]), len(fresh))
    return row, [
        {"matrix": matrix.name, "model": model, "count": count, **{q: values.get(q) for q in QUANTITIES}}
        for model, count, values in zip(NULLS, counts, models, strict=True)
        if count
    ]


def _random(size: int, radius: float, budget: Effort, seed: int, drawn: dict) -> tuple[list[float], list[dict]]:
    """Departures of random matrices, and every quantity of some; the same for all matrices of one size and radius."""
    key = (size, round(radius or 1.0, 6))
    if ("departures", size) not in drawn:
        draws = portrait.random_like(size, 1.0, budget.nulls, seed, "departures")
        drawn["departures", size] = [portrait.henrici(g, relative=True) for g in draws]
        drawn["draws", size] = draws[: budget.close]
    if key not in drawn:
        drawn[key] = [portrait.quantities(key[1] * g, _plain(budget)) for g in drawn["draws", size]]
    return drawn["departures", size], drawn[key]


def _plain(budget: Effort) -> Effort:
    """What nulls are asked: neither real nor defective distances, and Kreiss constants to 5 %."""
    return replace(budget, real=False, defective=False, kreiss=0.05 if budget.kreiss else 0.0)


def standing_still(found: Sequence[Cell], rests: Mapping[str, FixedPoints], starts: int, data: bool) -> Finding:
    where = "the mean input" if data else "input 0"
    rows = []
    for cell in found:
        points = rests.get(cell.name)
        for k in range(0 if points is None else len(points.states)):
            assert points is not None
            slope = jacobians(cell, points.states[k], points.input).numpy()
            radius, norm = float(np.abs(np.linalg.eigvals(slope)).max()), float(np.linalg.norm(slope, 2))
            word = verdicts.stability(radius, norm)
            reached = (points.found[k], starts, where)
            said = verdicts.of_fixed_point(cell.name, word, radius, *reached)
            if points.kind[k] == "slow":
                said = verdicts.of_slow_point(cell.name, float(points.residual[k]), *reached)
            rows.append({
                "part": cell.name, "kind": points.kind[k], "stability": word, "radius": radius, "norm": norm,
                "residual": float(points.residual[k]), "found": points.found[k], "starts": starts, "input": where,
                "state": points.states[k].tolist(), "verdict": said,
            })  # fmt: skip
    return Finding(
        "fixed points", "Where the recurrence stands still", _columns(rows), note=_counted(rows, starts, where)
    )


def _counted(rows: Sequence[Mapping], starts: int, where: str) -> str:
    kinds = [row["kind"] for row in rows]
    return f"From {starts} starts at {where}: {kinds.count('fixed')} fixed points, {kinds.count('slow')} slow ones."


def along_the_data(paths: Sequence[Trajectory], described: Finding, budget: Effort, seed: int) -> Finding:
    radii = {
        p: r
        for p, role, r in zip(*(described.columns[c] for c in ("part", "role", "radius")), strict=True)
        if role == MEAN
    }
    rows = []
    for path in paths:
        grown = growth(path, starts=max(32, 2 * budget.sequences), tolerance=1e-4, seed=seed)
        rates = lyapunov(path, exponents=budget.exponents, seed=seed)
        spread = torch.quantile(rates.values, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
        row = {
            "part": path.cell.name, "kind": path.cell.kind, "size": path.cell.size, "sequences": len(path.lengths),
            "steps": int(path.lengths.sum()), "growth_windows": grown.windows, "growth_median": grown.median,
            "growth_worst": grown.worst, "growth_sequence": grown.sequence, "growth_start": grown.start, "growth_places": grown.starts,
            "exponents": rates.mean.tolist(), "exponents_low": spread[0].tolist(), "exponents_high": spread[1].tolist(),
            "rate_of_mean_jacobian": float(np.log(max(radii.get(path.cell.name, 0.0), 1e-300))),
        }  # fmt: skip
        rows.append({**row, "verdict": verdicts.of_trajectory(path.cell.name, row)})
    note = "Exponents are of finite sequences; the rate of the mean Jacobian is the logarithm of its spectral radius, and its gap to the first exponent is what averaging hides."
    return Finding("along data", "Small changes of the state along the data", _columns(rows), note=note)


def _columns(rows: Sequence[Mapping]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _summary(rows: Sequence[Mapping]) -> Iterator[str]:
    for word in ("unstable", "marginal", "stable"):
        names = [r["matrix"] for r in rows if r["stability"] == word]
        if names:
            yield f"{len(names)} {word}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}."
