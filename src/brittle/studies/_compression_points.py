"""Theorem 5: exponentially many points x = A z, label z_d; and random labels, where compression has a law of its own."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from brittle.randomness import fold
from brittle.studies._codebooks import expected_compression, exponential_points, random_labels
from brittle.studies._medians import mean_of, slope
from brittle.studies._parts import Part, curve, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table

PAPER = "arXiv 2406.16200"
LAW = {7: 2000, 10: 2000, 12: 2000, 17: 2000, 100: 2000, 400: 200}  # dimension: matrices
SMALL, LARGE = (
    (6, 8, 10, 12),
    (50, 100, 200),
)  # where the optimum can be enumerated; where the best linear margin is computed
LABELS = ((50, 50), (100, 25), (100, 50), (100, 90), (100, 100), (200, 150), (200, 200))  # (dimensions, points)


def compressions(dimension: int, runs: int, seed: int) -> dict[str, list[float]]:
    """phi = |R_dd| / |a_d| and |R_dd| of so many matrices: the shares and lengths of the class feature that the exact probe sees."""
    sets = [exponential_points(dimension, 2, seed=fold(seed, "law", k)) for k in range(runs)]
    return {"phi": [s.compression for s in sets], "radius": [s.probe_radius for s in sets]}


def separations(dimension: int, runs: int, seed: int) -> list[list[float]]:
    """Per matrix: half the distance of the classes by enumeration, the best linear margin, |R_dd| and |a_d|."""
    sets = [exponential_points(dimension, 2, seed=fold(seed, "separation", k)) for k in range(runs)]
    return [[s.separation, s.linear_margin, s.probe_radius, float(s.matrix[:, -1].norm())] for s in sets]


def linear_margins(dimension: int, runs: int, seed: int) -> list[float]:
    """The best margin of any linear rule, per matrix."""
    return [exponential_points(dimension, 2, seed=fold(seed, "margin", k)).linear_margin for k in range(runs)]


def random_margins(dimension: int, count: int, runs: int, seed: int) -> dict[str, list[float]]:
    """Margin of the minimum-norm linear interpolant of random labels, and its ratio to the mean half distance."""
    sets = [random_labels(dimension, count, seed=fold(seed, "labels", k)) for k in range(runs)]
    margins = [s.margin for s in sets]
    return {"margin": margins, "ratio": [m / float(s.half_distance.mean()) for m, s in zip(margins, sets, strict=True)]}


def best_margins(dimension: int, count: int, runs: int, seed: int) -> list[float]:
    """Largest margin of any linear rule through the origin on random labels, over the mean half distance, per set."""
    sets = [random_labels(dimension, count, seed=fold(seed, "labels", k)) for k in range(runs)]
    return [largest_margin(s.x * (2 * s.labels[:, None] - 1)) / float(s.half_distance.mean()) for s in sets]


def largest_margin(signed: Tensor) -> float:
    """max over unit w of ``min_i w x_i`` for separable rows x_i (each multiplied by its sign): what logistic training tends to.

    ``min |w|  subject to  x_i w >= 1`` as a non-negative least-squares problem (Lawson and Hanson 1974, least distance programming).

    >>> round(largest_margin(torch.tensor([[3.0, 4.0], [30.0, 40.0]])), 9)
    5.0
    """
    from scipy.optimize import nnls

    system = torch.cat([signed.double().T, torch.ones(1, len(signed), dtype=torch.float64)]).numpy()
    wanted = [0.0] * signed.shape[1] + [1.0]
    multipliers, _ = nnls(system, wanted, maxiter=100 * len(signed))
    rest = system @ multipliers - wanted
    return float(abs(rest[-1]) / (rest[:-1] ** 2).sum() ** 0.5)


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Thousands of matrices for the law, 20 for each optimum, 200 sets of random labels."""
    cells = {f"points-law-d{d}": (compressions, d, runs, seed) for d, runs in LAW.items()}
    cells |= {f"points-optimum-d{d}": (separations, d, 20, seed) for d in SMALL}
    large = (*LARGE, 400) if full else LARGE
    cells |= {f"points-margin-d{d}": (linear_margins, d, 20 if d <= 100 else 5, seed) for d in large}
    cells |= {f"labels-best-n{n}-m{m}": (best_margins, n, m, 20, seed) for n, m in LABELS}
    return cells | {f"labels-n{n}-m{m}": (random_margins, n, m, 200, seed) for n, m in LABELS}


def part(found: Mapping) -> Part:
    """The law of phi, the gap that is intrinsic to linear rules, and the law of random labels."""
    law = {d: found[f"points-law-d{d}"] for d in LAW}
    small = {d: found[f"points-optimum-d{d}"] for d in SMALL}
    large = sorted((int(k.rsplit("-d", 1)[1]), v) for k, v in found.items() if k.startswith("points-margin-"))
    labels = {(n, m): {**found[f"labels-n{n}-m{m}"], "best": found[f"labels-best-n{n}-m{m}"]} for n, m in LABELS}
    plots = law_plot(law), gap_plot(law, small, dict(large)), labels_plot(labels)
    claims = (
        *shown(plots[0], law_claim(law)),
        *shown(plots[1], *gap_claims(law, small, dict(large))),
        *shown(plots[2], labels_claim(labels)),
    )
    return Part(claims, (labels_table(labels),), plots)


# ---- the law of phi --------------------------------------------------------------------------------------------------


def beta_distance(phi: list[float], dimension: int) -> float:
    """p-value of the Kolmogorov-Smirnov test of phi^2 against Beta(1/2, (d - 1)/2).

    >>> beta_distance([0.9] * 50, 12) < 1e-9
    True
    """
    from scipy.stats import beta, kstest

    return float(kstest([v * v for v in phi], beta(0.5, (dimension - 1) / 2).cdf).pvalue)


def law_claim(law: Mapping[int, dict]) -> Claim:
    p = {d: beta_distance(row["phi"], d) for d, row in law.items()}
    error = {d: abs(mean_of(row["phi"]).value / expected_compression(d) - 1) for d, row in law.items()}
    at12 = mean_of(law[12]["radius"])
    return Claim(
        "The share of the class feature that the exact probe sees is φ with φ² ~ Beta(½, (d − 1)/2), so E φ ≈ 0.798/√d",
        f"{PAPER}, Theorem 5; the distribution is ours",
        verdict(min(p.values()) > 0.01 / len(p) and max(error.values()) < 0.12),
        f"Kolmogorov–Smirnov over {sum(len(r['phi']) for r in law.values()):,} matrices: smallest of {len(p)} p-values {min(p.values()):.3f}; means within "
        f"{100 * max(error.values()):.1f} % of the law; E|R_dd| at d = 12: {at12} (half-normal: 0.798)",
    )


def law_plot(law: Mapping[int, dict]) -> Plot:
    ds = list(law)
    return Plot(
        "Theorem 5: how much of the class feature the exact linear rule sees",
        "dimension d",
        "φ",
        (
            measured("mean φ over matrices", ds, [mean_of(law[d]["phi"]) for d in ds]),
            curve("E φ = Γ(d/2) / (√π Γ((d+1)/2))", ds, [expected_compression(d) for d in ds]),
            curve("reference 1/√d", ds, [d**-0.5 for d in ds]),
        ),
        log_x=True,
        log_y=True,
    )


# ---- the gap ---------------------------------------------------------------------------------------------------------


def gap_claims(law: Mapping[int, dict], small: Mapping[int, list], large: Mapping[int, list]) -> tuple[Claim, ...]:
    share = {d: mean_of([best / length for best, _, _, length in rows]).value for d, rows in small.items()}
    radius = {d: mean_of(row["radius"]) for d, row in law.items()}
    exponent = slope(list(large), [mean_of(v).value for v in large.values()])
    ordered = all(
        probe <= margin * (1 + 1e-9) and margin <= best * (1 + 1e-9)
        for rows in small.values()
        for best, margin, probe, _ in rows
    )
    return (
        Claim(
            "With 2^(d−1) points a class the optimum is of the order √d, and the network that equals the label on all points falls to a change of order 1",
            f"{PAPER}, Theorem 5",
            verdict(min(share.values()) > 0.5 and all(abs(m.value - 0.798) < 0.1 for m in radius.values())),
            "enumerated optimum / ‖a_d‖ " + ", ".join(f"{v:.2f} (d = {d})" for d, v in share.items()) + "; distance of every point to the network's "
            f"boundary: mean {min(m.value for m in radius.values()):.2f} to {max(m.value for m in radius.values()):.2f} from d = 7 to {max(law)}",
        ),
        Claim(
            "That gap is one of linear rules, not of training: even the best linear margin hardly grows with d",
            "ours",
            "ours" if ordered and exponent < 0.4 else "not reproduced",
            "best linear margin " + ", ".join(f"{mean_of(v).value:.2f} (d = {d})" for d, v in large.items()) + f": exponent {exponent:.2f}, against √d = "
            + ", ".join(f"{sqrt(d):.0f}" for d in large),
        ),
    )  # fmt: skip


def gap_plot(law: Mapping[int, dict], small: Mapping[int, list], large: Mapping[int, list]) -> Plot:
    column = lambda k: [mean_of([row[k] for row in rows]) for rows in small.values()]
    margins = column(1) + [mean_of(v) for v in large.values()]
    return Plot(
        "Theorem 5: optimum, best linear rule, and the rule that equals the label",
        "dimension d",
        "distance to the boundary",
        (
            measured("optimum, by enumeration", list(small), column(0)),
            measured("best linear rule", [*small, *large], margins),
            measured("linear rule that equals the label: |R_dd|", list(law), [mean_of(r["radius"]) for r in law.values()]),
            curve("√d", [6, 400], [sqrt(6), 20.0]),
        ),
        "Means with 1.96 standard errors; all exact.",
        log_x=True,
        log_y=True,
    )  # fmt: skip


# ---- random labels, linear -------------------------------------------------------------------------------------------


def law_ratio(n: int, m: int) -> float:
    """Margin of the interpolant of m random labels in n dimensions over sqrt(n / 2): ``sqrt(2 (n - m + 1) / (m n))``.

    >>> round(law_ratio(100, 100), 3)
    0.014
    """
    return sqrt(2 * (n - m + 1) / (m * n))


def labels_claim(labels: Mapping[tuple[int, int], dict]) -> Claim:
    errors = {
        at: abs(_square(at, row).value / (at[0] - at[1] + 1) - 1) for at, row in labels.items() if at[1] <= 0.9 * at[0]
    }
    full = {n: (mean_of(labels[n, m]["ratio"]).value, mean_of(labels[n, m]["best"]).value) for n, m in labels if n == m}
    return Claim(
        "Random labels: the margin of the linear interpolant obeys m·margin² ~ χ²(d − m + 1), so it collapses as m reaches d",
        "ours",
        "ours" if max(errors.values()) < 0.05 else "not reproduced",
        f"means within {100 * max(errors.values()):.1f} % of the law for m ≤ 0.9 d; at m = d margin / half distance of the "
        "interpolant and of the best linear rule is " + ", ".join(f"{a:.3f} and {b:.3f} (d = {d})" for d, (a, b) in full.items()),
    )  # fmt: skip


def _square(at: tuple[int, int], row: dict):
    return mean_of([at[1] * v * v for v in row["margin"]])


def labels_table(labels: Mapping[tuple[int, int], dict]) -> Table:
    rows = [
        (
            n,
            m,
            str(_square((n, m), row)),
            n - m + 1,
            str(mean_of(row["ratio"])),
            law_ratio(n, m),
            str(mean_of(row["best"])),
            n**-0.5,
        )
        for (n, m), row in labels.items()
    ]
    return Table(
        "Random labels: the margin of the linear interpolant",
        (
            "dimensions d",
            "points m",
            "mean of m·margin²",
            "law: d − m + 1",
            "interpolant: margin / half distance",
            "law over √(d/2)",
            "best linear margin / half distance",
            "1/√d",
        ),
        tuple(rows),
        "Means over 200 sets (best margin: 20) with 1.96 standard errors. Half distance to the nearest point of the other label: a little below √(d/2).",
    )


def labels_plot(labels: Mapping[tuple[int, int], dict]) -> Plot:
    at100 = {m: row for (n, m), row in labels.items() if n == 100}
    ms = range(20, 101)
    return Plot(
        "Random labels in 100 dimensions: the linear margin collapses as points become as many as dimensions",
        "points m",
        "margin / half distance",
        (
            measured("linear interpolant", list(at100), [mean_of(row["ratio"]) for row in at100.values()]),
            measured("best linear margin", list(at100), [mean_of(row["best"]) for row in at100.values()]),
            curve("√(2(d − m + 1)/(m d))", ms, [law_ratio(100, m) for m in ms]),
        ),
        "Means over 200 sets with 1.96 standard errors. The law is stated over √(d/2), the points over the half distance itself.",
    )
