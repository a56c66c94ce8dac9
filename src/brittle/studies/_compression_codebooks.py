"""Theorems 1, 3 and 4 on codewords of d classes, and how the number of codewords against the number of dimensions decides."""

from collections.abc import Mapping
from math import pi, sqrt

import torch

from brittle.randomness import fold
from brittle.studies._codebooks import Codebook, codebook, median_half_distance
from brittle.studies._medians import Middle, mean_of, median_of, slope
from brittle.studies._parts import Part, curve, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table

PAPER = "arXiv 2406.16200"
SIZES = {12: 100, 50: 100, 100: 100, 200: 100, 500: 40, 1000: 20}  # dimension: codebooks
WIDE = (100, 110, 125, 150, 200, 400)  # dimensions of 100 codewords
DEPTHS, PRODUCTS = (1, 2, 3), (12, 25, 50, 100, 200)
GOLDEN = {  # medians of an earlier run of ours with other seeds: half distance / sqrt(d/2), last pair, all targets, ratio
    12: (0.703, 0.49, 0.216, 0.124), 50: (0.806, 0.54, 0.187, 0.046), 100: (0.845, 0.40, 0.125, 0.020),
    200: (0.882, 0.35, 0.119, 0.0134), 500: (0.916, 0.56, 0.133, 0.0092), 1000: (0.937, 0.39, 0.080, 0.0038),
}  # fmt: skip
NAMES = ("half", "pair", "bound", "radius", "ratio", "diagonal", "compression", "plane")


def codebooks(dimension: int, count: int, depth: int, first: int, runs: int, seed: int) -> dict[str, list[float]]:
    """Oracles of ``runs`` codebooks, numbered from ``first``: each list holds one number per codebook, see :func:`oracles`."""
    rows = [oracles(codebook(dimension, count, depth=depth, seed=fold(seed, first + k))) for k in range(runs)]
    return {name: [row[name] for row in rows] for name in NAMES}


def products(dimension: int, depth: int, runs: int, seed: int) -> list[float]:
    """R_dd / |x_d| of ``runs`` codebooks drawn from a product of ``depth`` Gaussian matrices."""
    return [codebook(dimension, depth=depth, seed=fold(seed, "product", k)).compression for k in range(runs)]


def oracles(book: Codebook) -> dict[str, float]:
    """Of the last class, in units of x: half the distance to the nearest codeword; exact radius against the class before it and
    against all; their ratio; the bounds of Theorem 1 and of Theorem 4 on the first of them; the compression factor."""
    half, radius = float(book.half_distance[-1]), float(book.radii[-1])
    plane, _ = torch.linalg.qr(book.weights[-2:].T)
    return {
        "half": half,
        "pair": book.last_pair,
        "bound": book.last_bound,
        "radius": radius,
        "ratio": radius / half,
        "diagonal": book.last_diagonal,
        "compression": book.compression,
        "plane": float((plane.T @ (book.x[-1] - book.x[-2])).norm()),
    }


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Square codebooks up to d = 1000, 100 codewords in more dimensions, products of up to three layers."""
    cells: dict[str, tuple] = {}
    for d, runs in SIZES.items():
        many = 5 * runs if full and d <= 200 else runs
        each = 5 if d == 1000 else many
        cells |= {f"codebook-d{d}-{k}": (codebooks, d, d, 1, k, each, seed) for k in range(0, many, each)}
    cells |= {f"wide-n{n}": (codebooks, n, 100, 1, 0, 100, seed) for n in WIDE}
    return cells | {f"product-t{t}-d{d}": (products, d, t, 400, seed) for t in DEPTHS for d in PRODUCTS}


def part(found: Mapping) -> Part:
    """Theorem 1 beside its golden numbers, Theorem 3, Theorem 4 and the law in m / n."""
    square = {d: joined([v for k, v in found.items() if k.startswith(f"codebook-d{d}-")]) for d in SIZES}
    middle = {d: {name: median_of(row[name]) for name in NAMES} for d, row in square.items()}
    wide = {n: found[f"wide-n{n}"] for n in WIDE}
    products = {t: {d: mean_of(found[f"product-t{t}-d{d}"]) for d in PRODUCTS} for t in DEPTHS}
    plots = square_plot(middle), wide_plot(wide), product_plot(products)
    claims = (
        *shown(plots[0], *square_claims(square, middle)),
        *shown(plots[1], wide_claim(wide)),
        *shown(plots[2], product_claim(products)),
    )
    return Part(claims, (square_table(middle),), plots)


def joined(parts: list[dict]) -> dict[str, list[float]]:
    return {name: [v for part in parts for v in part[name]] for name in NAMES}


# ---- Theorems 1 and 4 ------------------------------------------------------------------------------------------------


def square_claims(square: Mapping[int, dict], middle: Mapping[int, Mapping[str, Middle]]) -> tuple[Claim, ...]:
    ds = list(middle)
    holds = all(p <= b * (1 + 1e-9) for row in square.values() for p, b in zip(row["pair"], row["bound"], strict=True))
    pooled = median_of([v for row in square.values() for v in row["pair"]]).value
    inside = sum(middle[d]["pair"].low <= pooled <= middle[d]["pair"].high for d in ds)
    exponent = slope(ds, [middle[d]["ratio"].value for d in ds])
    share = [middle[d]["half"].value / sqrt(d / 2) for d in ds]
    factor = [p / (2 * r) for row in square.values() for p, r in zip(row["plane"], row["pair"], strict=True)]
    return (
        Claim(
            "The minimum-distance rule tolerates (1 − ε)√(2d)/2 on d Gaussian codewords",
            f"{PAPER}, Theorem 1",
            verdict(share == sorted(share) and share[-1] > 0.9),
            f"median half distance / √(d/2) grows from {share[0]:.2f} (d = {ds[0]}) to {share[-1]:.3f} (d = {ds[-1]}): ε falls slowly",
        ),
        Claim(
            "A network that is exactly one-hot on the d codewords is fooled by a change bounded by a constant free of d",
            f"{PAPER}, Theorem 1",
            verdict(holds and inside >= len(ds) - 1),
            f"the closed form stays below the paper's |a| + |c| + |h| in all {sum(len(r['pair']) for r in square.values())} codebooks; its "
            f"median over all of them, {pooled:.2f}, lies in the 95 % interval of {inside} of the {len(ds)} dimensions",
        ),
        Claim(
            "Such a network is at most of the order 1/√d as robust as the optimum",
            f"{PAPER}, Theorem 1 and abstract",
            verdict(exponent < -0.4),
            f"median ratio over all targets {middle[ds[0]]['ratio'].value:.3f} (d = {ds[0]}) to {middle[ds[-1]]['ratio'].value:.4f} "
            f"(d = {ds[-1]}), exponent {exponent:.2f}: a little faster than −½, since more targets become available",
        ),
        Claim(
            "Changing label i to j costs at most the length of x_i − x_j in the plane of the two probing vectors",
            f"{PAPER}, Theorem 4",
            verdict(min(factor) >= 1 - 1e-9),
            f"holds in every codebook; the bound is at least twice the exact distance (median {2 * median_of(factor).value:.1f} times), since it "
            "reaches the scores of x_j where a tie is enough",
        ),
    )  # fmt: skip


def square_table(middle: Mapping[int, Mapping[str, Middle]]) -> Table:
    rows = []
    for d, row in middle.items():
        golden = GOLDEN[d]
        rows.append((
            d, f"{row['half'].value / sqrt(d / 2):.3f} ({golden[0]})", f"{median_half_distance(d) / sqrt(d / 2):.3f}", f"{row['pair']} ({golden[1]})",
            f"{row['radius']} ({golden[2]})", f"{row['ratio']} ({golden[3]})", f"{d**-0.5:.4f}", f"{row['ratio'].value * sqrt(d):.2f}",
        ))  # fmt: skip
    return Table(
        "Codebooks of d classes in d dimensions (Theorem 1)",
        (
            "d", "optimum / √(d/2)", "formula for it", "radius against one class, exact", "radius, all targets", "radius / optimum", "reference 1/√d",
            "ratio × √d",
        ),
        tuple(rows),
        "Medians [95 % interval] over " + ", ".join(f"{r} codebooks at d = {d}" for d, r in SIZES.items()) + "; in brackets an earlier run of ours "
        "with other seeds. Exact radii of the one-hot interpolant, the optimum is half the distance to the nearest codeword.",
    )  # fmt: skip


def square_plot(middle: Mapping[int, Mapping[str, Middle]]) -> Plot:
    ds = list(middle)
    return Plot(
        "Theorem 1: the optimum grows, the one-hot network does not",
        "dimension d = number of classes",
        "l2 radius",
        (
            measured("optimum: half distance to the nearest codeword", ds, [middle[d]["half"] for d in ds]),
            measured("one-hot network, against one class", ds, [middle[d]["pair"] for d in ds]),
            measured("one-hot network, all targets", ds, [middle[d]["radius"] for d in ds]),
            curve("√(d/2)", ds, [sqrt(d / 2) for d in ds]),
        ),
        "Medians over codebooks with 95 % intervals; exact radii.",
        log_x=True,
        log_y=True,
    )


# ---- m codewords in n dimensions -------------------------------------------------------------------------------------


def wide_claim(wide: Mapping[int, dict]) -> Claim:
    errors = [abs(mean_of(wide[n]["diagonal"]).value / sqrt(n - 99) - 1) for n in wide if n >= 110]
    ratio = {n: median_of(wide[n]["ratio"]).value for n in wide}
    square, widest = ratio[min(ratio)], ratio[max(ratio)]
    return Claim(
        "Compression appears when constraints are as many as dimensions: φ² ~ Beta((n − m + 1)/2, (m − 1)/2) for m codewords in n dimensions",
        "ours; the paper states the corner m = n",
        "ours" if max(errors) < 0.05 and widest > 10 * square else "not reproduced",
        f"m = 100: mean R_mm within {100 * max(errors):.1f} % of √(n − m + 1) for n ≥ 110; radius / optimum rises from {square:.3f} "
        f"(n = 100) to {widest:.2f} (n = {max(ratio)})",
    )


def wide_plot(wide: Mapping[int, dict]) -> Plot:
    ns = list(wide)
    return Plot(
        "100 codewords in n dimensions: the collapse is the corner n = 100 of a smooth law",
        "dimensions n",
        "share",
        (
            measured("radius / optimum", ns, [median_of(wide[n]["ratio"]) for n in ns]),
            measured("R_mm / ‖x_m‖, root mean square", ns, [_root(wide[n]["compression"]) for n in ns]),
            curve("√((n − m + 1)/n)", range(100, 401, 5), [sqrt((n - 99) / n) for n in range(100, 401, 5)]),
        ),
        "Minimum-norm one-hot interpolants; medians, and the root of the mean square with 1.96 standard errors.",
    )


def _root(values: list[float]) -> Middle:
    square = mean_of([v * v for v in values])
    return square._replace(value=sqrt(square.value), low=sqrt(max(0.0, square.low)), high=sqrt(square.high))


# ---- products of Gaussian layers (Theorem 3) -------------------------------------------------------------------------


def product_claim(products: Mapping[int, Mapping[int, Middle]]) -> Claim:
    exponents = {t: slope(list(row), [m.value for m in row.values()]) for t, row in products.items()}
    holds = all(abs(e + t / 2) < 0.1 * t for t, e in exponents.items())
    return Claim(
        "Codewords from a product of t Gaussian layers: the one-hot network still falls to a change of order 1 (for us: compression ~ d^(−t/2))",
        f"{PAPER}, Theorem 3 and Lemma 7; the exponent is ours",
        verdict(holds),
        "exponent of d in the mean of R_dd / ‖x_d‖: "
        + ", ".join(f"t = {t}: {e:.2f} (law {-t / 2:.1f})" for t, e in exponents.items()),
    )


def product_plot(products: Mapping[int, Mapping[int, Middle]]) -> Plot:
    expected = lambda t, d: (sqrt(2 / pi) / sqrt(d)) ** t
    curves = [measured(f"t = {t}", list(row), list(row.values())) for t, row in products.items()]
    return Plot(
        "Theorem 3: codewords from a product of t Gaussian layers",
        "dimension d",
        "compression R_dd / ‖x_d‖",
        (*curves, *(curve(f"0.798^{t} d^(−{t}/2)", PRODUCTS, [expected(t, d) for d in PRODUCTS]) for t in products)),
        "Means over 400 products with 1.96 standard errors. Deeper generators compress more, not less.",
        log_x=True,
        log_y=True,
    )
