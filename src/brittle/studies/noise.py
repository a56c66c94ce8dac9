"""Random noise: what a bound from dimension and number of units says about trained networks, and what they really tolerate."""

from typing import Any

from brittle.about import About
from brittle.studies import _noise_ranking, _noise_real, _noise_scaling, _noise_statement, _noise_tightness
from brittle.studies._cells import Cells
from brittle.studies._study import Study

ABOUT = About(
    promise="where the bound of the paper says anything, how tight every bound is, and how random noise and worst case are related",
    reference="V. Kurkova, arXiv 2602.18674",
    cost="about 12 minutes of processor, half of that on two cores; with --full about 25",
)
SEEDS, INPUTS, RANKED, TIGHT = 5, 8, 150, 6


def noise(cells: Cells, *, full: bool = False, seed: int = 0) -> Study:
    """The claims of the paper on random and trained networks, and three questions that it leaves open.

    Digits, embedded in 64 to 150,528 dimensions without changing any distance between them; 5 seeds wherever networks are random.
    ``full`` adds MNIST, MNIST in more dimensions, and EfficientNet-Lite0 on ImageNet pictures (assets must have been fetched).
    The paper was read second-hand: its abstract, and a public reading note for Theorem 3.1. See docs/studies/noise.md.
    """
    first = {
        **_noise_scaling.calls(seed, SEEDS, INPUTS),
        **_noise_statement.calls(seed, 3, INPUTS),
        **_noise_ranking.calls(seed, SEEDS, RANKED),
        **_noise_tightness.truths(seed, TIGHT, full),
        **(_noise_real.calls(seed) if full else {}),
    }
    found: dict[str, Any] = cells.each(first, "networks and truths")
    bounds: dict[str, Any] = cells.each(_noise_tightness.calls(seed, found), "bounds")
    ranks = _noise_ranking.correlations(found, seed)
    scaling = _noise_scaling.claims(found)
    claims = (
        _noise_statement.claim(found),
        *scaling,
        _noise_ranking.claim(ranks),
        *_noise_tightness.claims(bounds),
        *(_noise_real.claims(found) if full else ()),
    )
    tables = [_noise_scaling.table(found), _noise_tightness.table(bounds), _noise_ranking.table(found, seed)]
    tables += [_noise_statement.table(found), *(_noise_real.tables(found) if full else ())]
    plots = (_noise_statement.plot(found, seed), *_noise_scaling.plots(found), _noise_ranking.plot(found))
    settings = {
        "seeds": SEEDS,
        "inputs per network": f"{INPUTS} (noise), {RANKED} (ranking), {TIGHT} (tightness)",
        "data": "scikit-learn digits, 1,297 to train on" + (", MNIST, 20 pictures of ImageNet" if full else ""),
        "training": "stochastic gradient descent, momentum 0.9, step 0.05, 40 epochs, He initialisation",
    }
    notes = (
        "Second-hand: Theorem 3.1 is taken from a public reading note, the other claims from the abstract; the necessity result of section 4.2 was not seen.",
    )
    return Study(
        "Robustness to random noise",
        "V. Kurkova, arXiv 2602.18674 (2026)",
        claims,
        tuple(tables),
        plots,
        settings,
        notes,
    )
