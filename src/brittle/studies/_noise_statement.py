"""Experiment: the paper's statement itself, against random draws on the sphere: is the bound ever broken, and where does it say anything?"""

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from brittle.randomness import generator
from brittle.stats import binomial_lower
from brittle.studies._noise_levels import median
from brittle.studies._noise_nets import Network, digit_network
from brittle.studies._noise_walls import Distances, distances, paper_bound, paper_radius, sharp_bound
from brittle.studies._study import Claim, Curve, Plot, Table

DRAWS = 4000
STEPS = (0.6, 0.7, 0.8, 0.9, 0.97)  # of the length up to which the bound says anything
TAIL = 1e-5  # a share whose exact lower limit at this level lies above the bound counts as a violation
NETWORKS = tuple((n, w, t) for n in (64, 1024, 150528) for w in ((64, 64), (32,) * 6) for t in (True, False))
CURVE = tuple(0.01 * 10 ** (k / 8) for k in range(25))  # noise lengths of the figure, 0.01 to 10
SOURCE = "arXiv 2602.18674, Theorem 3.1"


def challenged(n: int, widths: Sequence[int], trained: bool, seed: int, count: int) -> dict[str, list]:
    """The bound at several noise lengths around every input, and the shares of ``DRAWS`` draws that leave the cell or the class.

    Lengths where every single draw is shorter than the nearest wall are left out: there the statement is trivial.
    """
    network = digit_network(n, widths, trained, seed, count)
    found = distances(network)
    spaces = network.units + 9
    out: dict[str, list] = {name: [] for name in ("step", "bound", "sharp", "leaves", "changes")}
    for k, step in enumerate(STEPS):
        radius = torch.tensor([step * paper_radius(a, n, spaces) for a in found.nearest.tolist()])
        leaves, changes = _shares(network, radius, seed * len(STEPS) + k, DRAWS)
        out["step"] += [step] * len(radius)
        pairs = list(zip(found.nearest.tolist(), radius.tolist(), strict=True))
        out["bound"] += [paper_bound(a, r, n, spaces) for a, r in pairs]
        out["sharp"] += [float(sharp_bound(torch.tensor(a, dtype=torch.float64), r, n, spaces)) for a, r in pairs]
        out["leaves"] += leaves.tolist()
        out["changes"] += changes.tolist()
    return out


def drawn_out(seed: int, lengths: Sequence[float]) -> dict[str, list]:
    """One trained network, one typical input: the paper's bound, each unit's own, and both shares, over the noise length."""
    network = digit_network(64, (64, 64), True, seed, 25)
    found = distances(network)
    middle = int(found.nearest.argsort()[len(found.nearest) // 2])
    at = torch.tensor([middle])
    network = Network(
        64, network.factor, network.tail, network.starts[at], network.labels[at], network.logits[at], network.accuracy
    )
    found = Distances(found.units[at], found.faces[at])
    spaces, a = network.units + 9, float(found.nearest)
    rows = [_shares(network, torch.tensor([r]), seed + k, 10 * DRAWS) for k, r in enumerate(lengths)]
    from brittle.tails import log_sphere

    return {
        "nearest": [a],
        "paper": [min(1.0, paper_bound(a, r, 64, spaces)) for r in lengths],
        "own": [min(1.0, float(log_sphere(found.all / r, 64).exp().sum())) for r in lengths],
        "leaves": [float(leaves) for leaves, _ in rows],
        "changes": [float(changes) for _, changes in rows],
    }


def _shares(network: Network, radius: Tensor, seed: int, draws: int) -> tuple[Tensor, Tensor]:
    """(N,) shares of draws on the sphere of radius r in n dimensions that change any rectifier's side, and that change the class.

    The network sees u, m of the n coordinates of the draw: ``r g / sqrt(|g|^2 + chi^2 with n - m degrees)`` with g normal in R^m.
    """
    width = network.factor.shape[1]
    source = generator(seed, "noise study", 0)
    g = torch.randn(draws, width, generator=source, dtype=torch.float64)
    rest = _chi_square(network.dimension - width, draws, source)
    unit = g / (g.square().sum(1) + rest).sqrt()[:, None]
    leaves, changes = [], []
    for start, label, r in zip(network.starts, network.labels, radius.tolist(), strict=True):
        before, _ = _pattern(network.tail, start[None])
        after, logits = _pattern(network.tail, start + r * unit @ network.factor.T)
        leaves.append((after != before).any(1).double().mean())
        changes.append((logits.argmax(1) != label).double().mean())
    return torch.stack(leaves), torch.stack(changes)


def _chi_square(degrees: int, draws: int, source: torch.Generator) -> Tensor:
    """Sums of squares of ``degrees`` normal numbers; beyond a thousand by Wilson and Hilferty's cube, off by less than 1e-5 of itself."""
    if degrees <= 1000:
        return torch.randn(draws, max(1, degrees), generator=source, dtype=torch.float64).square().sum(1) * (
            degrees > 0
        )
    z = torch.randn(draws, generator=source, dtype=torch.float64)
    return degrees * (1 - 2 / (9 * degrees) + z * sqrt(2 / (9 * degrees))) ** 3


def _pattern(tail: nn.Sequential, value: Tensor) -> tuple[Tensor, Tensor]:
    """Which units are open (N, units), and the logits."""
    open_ = []
    with torch.no_grad():
        for layer in tail:
            if isinstance(layer, nn.ReLU):
                open_.append(value > 0)
            value = layer(value)
    return torch.cat(open_, 1), value


def calls(seed: int, seeds: int, count: int) -> dict[str, tuple]:
    found: dict[str, tuple] = {
        f"statement-n{n}-l{len(w)}-{'trained' if t else 'random'}-{k}": (challenged, n, w, t, k, count)
        for n, w, t in NETWORKS
        for k in range(seed, seed + seeds)
    }
    return {**found, f"statement-curve-{seed}": (drawn_out, seed, CURVE)}


def claim(cells: Mapping[str, Mapping]) -> Claim:
    """Was any bound ever broken?"""
    rows = [row for row in _rows(cells) if row["bound"] < 1]
    broken = violations(rows)
    near = median([row["leaves"] / row["sharp"] for row in rows if row["leaves"] > 0 and row["step"] > 0.9])
    evidence = (
        f"{broken} violations in {len(rows):,} cases of {DRAWS:,} draws (input x noise length, bound between "
        f"{min(r['bound'] for r in rows):.2g} and {max(r['bound'] for r in rows):.2g}); where draws leave the cell, they do so "
        f"{near:.2g} times as often as the sharp form of the bound allows (median). "
    )
    changed = sum(row["changes"] > 0 for row in rows)
    evidence += f"The class itself changed in {changed} of these cases."
    statement = "Noise on the sphere of radius r keeps the class with probability at least 1 - N exp(-n a^2 / (2 r^2))"
    return Claim(statement, SOURCE, "not reproduced" if broken else "reproduced", evidence)


def violations(rows: Sequence[Mapping]) -> int:
    """Cases in which leaving the cell, or changing the class, is more frequent than the bound allows, beyond chance."""
    total = 0
    for row in rows:
        worst = max(row["leaves"], row["changes"])
        low = float(binomial_lower(torch.tensor([round(worst * DRAWS)]), DRAWS, TAIL))
        total += low > min(1.0, row["bound"]) or low > min(1.0, row["sharp"])
    return total


def _rows(cells: Mapping[str, Mapping]) -> list[dict]:
    columns = [c for key, c in cells.items() if key.startswith("statement-n")]
    return [dict(zip(c, values, strict=True)) for c in columns for values in zip(*c.values(), strict=True)]


def plot(cells: Mapping[str, Mapping], seed: int) -> Plot:
    """Bound and truth over the noise length."""
    c = cells[f"statement-curve-{seed}"]
    curves = (
        Curve("the paper's bound", CURVE, tuple(c["paper"])),
        Curve("union bound, each unit's own distance", CURVE, tuple(c["own"])),
        Curve("draws that leave the cell", CURVE, tuple(v or None for v in c["leaves"]), style="points"),
        Curve("draws that change the class", CURVE, tuple(v or None for v in c["changes"]), style="points"),
    )
    note = (
        f"A 64-64-64-10 network trained on digits, one typical correctly read digit; noise on the sphere, {10 * DRAWS:,} draws per length. "
        f"Its nearest wall is at {c['nearest'][0]:.2g}. The bound follows the draws that leave the cell, and almost none of them changes the class."
    )
    return Plot(
        "The bound guards the cell, not the class", "noise length", "probability", curves, note, log_x=True, log_y=True
    )


def table(cells: Mapping[str, Mapping]) -> Table:
    """Per kind of network: cases, violations, the largest ratio of a share to its bound."""
    groups: dict[str, list] = {}
    for key, c in cells.items():
        if key.startswith("statement-n"):
            groups.setdefault(key.removeprefix("statement-").rpartition("-")[0], []).append(c)
    rows = []
    for name, members in groups.items():
        lines = [line for line in _rows({f"statement-n{i}": m for i, m in enumerate(members)}) if line["bound"] < 1]
        share = max((line["leaves"] / line["sharp"] for line in lines if line["leaves"] > 0), default=0.0)
        rows.append((name, len(lines), violations(lines), share, max((line["changes"] for line in lines), default=0.0)))
    columns = ("network", "cases", "violations", "largest leaving / sharp bound", "largest share that changed class")
    return Table("The statement against Monte Carlo", columns, tuple(rows))
