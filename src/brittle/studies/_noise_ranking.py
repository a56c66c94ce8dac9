"""Experiment: does the bound point at inputs with adversarial neighbours? Rank correlations with the nearest failure that was found."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from brittle.studies._noise_levels import nearest_failure
from brittle.studies._noise_nets import digit_network
from brittle.studies._noise_walls import distances, own_sigma
from brittle.studies._study import Claim, Curve, Plot, Table

WIDTHS = ((64, 64), (100, 100), (48,) * 4)
TARGET = 1e-3
RESAMPLES = 1000
MEDIUM = 0.3  # J. Cohen, Statistical Power Analysis, 1988: a convention
SCORES = {
    "cell": "distance to the nearest wall; the paper's bound ranks inputs the same way",
    "own": "noise certified by the union bound over each unit's own distance",
    "margin": "logit margin (baseline)",
    "face": "distance to the nearest change of class of the cell's own affine map",
}
SOURCE = "arXiv 2602.18674, abstract"


def ranked(widths: Sequence[int], seed: int, count: int, source: str = "digits") -> dict[str, object]:
    """Of ``count`` test digits that a trained network reads correctly: every score, and the l2 distance to the nearest failure found."""
    pixels = {"digits": 64, "mnist": 784}[source]
    network = digit_network(pixels, widths, True, seed, count, source)
    found = distances(network)
    return {
        "accuracy": network.accuracy,
        "attacked": nearest_failure(network, seed).tolist(),
        "cell": found.nearest.tolist(),
        "own": own_sigma(found, TARGET).tolist(),
        "margin": network.margins.tolist(),
        "face": found.faces.clamp_min(0).amin(1).tolist(),
    }


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of ranks over the last axis, ties at their mean rank.

    >>> float(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 300.0, 20.0])))
    0.5
    """
    x, y = (_ranks(v) - (v.shape[-1] + 1) / 2 for v in (a, b))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """1 + how many are smaller + half of how many others are equal."""
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values.contiguous())
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto + 1).double() / 2


def correlation(cells: Sequence[Mapping], score: str, seed: int) -> tuple[float, float, float]:
    """Spearman's correlation of a score with the adversarial distance: the mean over networks and its 95 % bootstrap interval.

    Networks and inputs are both drawn again, with replacement, 1,000 times.
    """
    pairs = [_finite(cell[score], cell["attacked"]) for cell in cells]
    mean = sum(float(spearman(a, b)) for a, b in pairs) / len(pairs)
    source = torch.Generator().manual_seed(seed)
    places = torch.rand(RESAMPLES, max(len(a) for a, _ in pairs), generator=source)
    each = []
    for a, b in pairs:  # the same inputs of every network, since all were asked about the same digits
        at = (places[:, : len(a)] * len(a)).long()
        each.append(spearman(a[at], b[at]))
    chosen = torch.randint(len(pairs), (RESAMPLES, len(pairs)), generator=source)
    drawn = torch.stack(each, 1).gather(1, chosen).mean(1).sort().values
    return mean, float(drawn[int(0.025 * RESAMPLES)]), float(drawn[int(0.975 * RESAMPLES) - 1])


def _finite(a: Sequence[float], b: Sequence[float]) -> tuple[Tensor, Tensor]:
    kept = [(u, v) for u, v in zip(a, b, strict=True) if v < float("inf")]
    left, right = zip(*kept, strict=True)
    return torch.tensor(left, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)


def calls(seed: int, seeds: int, count: int) -> dict[str, tuple]:
    return {
        f"ranking-{'x'.join(map(str, w))}-{k}": (ranked, w, k, count) for w in WIDTHS for k in range(seed, seed + seeds)
    }


def correlations(cells: Mapping[str, Mapping], seed: int) -> dict[str, tuple[float, float, float]]:
    """Every score's correlation over all networks."""
    members = [c for key, c in cells.items() if key.startswith("ranking-")]
    return {score: correlation(members, score, seed) for score in SCORES}


def claim(found: Mapping[str, tuple[float, float, float]]) -> Claim:
    """Reproduced where the bound ranks inputs as well as the margin; "only when" where it ranks them, but worse; else not.

    A correlation counts from ``MEDIUM`` on: below it a score says next to nothing of a single input.
    """
    bound = max(("cell", "own"), key=lambda s: found[s][0])
    as_well = found[bound][2] >= found["margin"][1]
    says = found[bound][1] >= MEDIUM
    text = "; ".join(f"{_SHORT[s]} {m:.2f} [{low:.2f}, {high:.2f}]" for s, (m, low, high) in found.items())
    evidence = f"Spearman's correlation with the l2 distance of the nearest failure found: {text}."
    if not as_well:
        free = "the logit margin, which is free, ranks inputs better"
        weak = f"at most a weak trace of it (a correlation below {MEDIUM})"
        evidence += f" The bound carries some of it, but {free}." if says else f" The bound holds {weak}; {free}."
    verdict = "reproduced" if says and as_well else "only when" if says else "not reproduced"
    return Claim("The bound points at inputs with adversarial neighbours", SOURCE, verdict, evidence)


_SHORT = {"cell": "cell distance", "own": "union bound", "margin": "logit margin", "face": "nearest face of the cell"}


def table(cells: Mapping[str, Mapping], seed: int) -> Table:
    """Per architecture the correlation of every score, mean over seeds with its interval."""
    groups: dict[str, list[Mapping]] = {}
    for key, cell in cells.items():
        if key.startswith("ranking-"):
            groups.setdefault(key.split("-")[1], []).append(cell)
    rows = []
    for name, members in groups.items():
        found = [correlation(members, s, seed) for s in SCORES]
        rows.append((name, len(members), *(f"{m:.2f} [{lo:.2f}, {hi:.2f}]" for m, lo, hi in found)))
    note = "; ".join(f"{_SHORT[s]}: {words}" for s, words in SCORES.items())
    columns = ("hidden units", "networks", *(_SHORT[s] for s in SCORES))
    return Table("Rank correlation with the adversarial distance", columns, tuple(rows), note)


def plot(cells: Mapping[str, Mapping]) -> Plot:
    """One network's inputs: ranks by cell distance and by margin against ranks by adversarial distance."""
    cell = next(c for key, c in cells.items() if key.startswith("ranking-"))
    x = _ranks(torch.tensor(cell["attacked"])).tolist()
    curves = tuple(
        Curve(_SHORT[s], tuple(x), tuple(_ranks(torch.tensor(cell[s])).tolist()), style="points")
        for s in ("cell", "margin")
    )
    note = (
        "Ranks of the same inputs, most fragile first: a score that points at adversarial inputs follows the diagonal."
    )
    return Plot("Which score knows the fragile inputs?", "rank by adversarial distance", "rank by score", curves, note)
