"""Is the recurrence inside the network stable, how robustly, and what grows along the data?"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from brittle.about import About
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="every recurrent matrix and Jacobian: stability, distance to instability, transient growth, beside null models",
    reference="Trefethen and Embree 2005; Sengupta and Friston, arXiv 1804.11313; see bt.spectrum",
    leaves=("input", "parameter"),
    cost="one forward pass; then linear algebra on the recurrent matrices: about a second per matrix of 100 rows",
    effort="standard",
)
ALONG = (
    "sequences", "steps", "growth_windows", "growth_median", "growth_worst", "growth_sequence", "growth_start", "growth_places", "exponents", "exponents_low",
    "exponents_high", "rate_of_mean_jacobian",
)  # fmt: skip


def recurrence(
    problem: Problem,
    *,
    seed: int = 0,
    spectrum: Callable,
    lengths: Sequence[int] | Tensor | None = None,
    effort: str = "standard",
    parts: str = "*",
) -> Finding:
    """One row per recurrent matrix, as ``bt.spectrum`` describes it on the problem's own examples.

    Gate blocks, Jacobians at fixed points, and the mean and the largest Jacobian along the data; columns are those of the finding "matrices" of ``bt.spectrum``.
    The row of a mean Jacobian also says what happens along the data: growth over windows, Lyapunov exponents, and a sentence in ``along``. The column
    ``fixed_points`` holds the sentences on the part's fixed points, ``nulls`` the rows of the null models.

    spectrum : the verb, handed over by the caller. lengths, effort, parts : see ``bt.spectrum``; an input named "lengths" is taken for the lengths.
    Errors: InputError where nothing in the network is recurrent.

    >>> import torch, brittle as bt
    >>> from brittle.sources.embedded import embedded
    >>> x = torch.rand(4, 64)
    >>> found = bt.diagnose(bt.Problem(embedded("gru"), x, torch.zeros(4).long()), "recurrence", effort="quick", parts="*l0")
    >>> found.columns["role"][:3]
    ['gate block', 'gate block', 'gate block']
    """
    inputs = problem.inputs
    x = inputs["x"] if list(inputs) == ["x"] else dict(inputs)
    count = inputs.get("lengths") if lengths is None else lengths
    found = spectrum(problem.network.original, x, lengths=count, parts=parts, effort=effort, seed=seed)
    columns = dict(found["matrices"].columns)
    paths = {row["part"]: row for row in _rows(found["along data"])}
    points, nulls = _rows(found["fixed points"]), _rows(found["null models"])
    along = [
        paths.get(p) if r.startswith("mean") else None for p, r in zip(columns["part"], columns["role"], strict=True)
    ]
    for name in ALONG:
        columns[name] = [None if row is None else row[name] for row in along]
    columns["along"] = [None if row is None else row["verdict"] for row in along]
    columns["fixed_points"] = [[r["verdict"] for r in points if r["part"] == p] for p in columns["part"]]
    columns["nulls"] = [[n for n in nulls if n["matrix"] == name] for name in columns["matrix"]]
    note = " ".join([row["verdict"] for row in paths.values()] or [found["matrices"].note])
    return Finding(
        "recurrence", "Is the recurrence stable, and how robustly?", columns, ("matrix", "radius", "norm"), note=note
    )


def _rows(finding: Finding) -> list[Mapping]:
    columns = finding.columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
