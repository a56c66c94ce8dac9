"""What faulty weights do: weights rounded to short formats, random corners of the same balls, random and worst bit flips."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.diagnostics._bench import Bench, cross_entropy
from brittle.diagnostics._bits import BITS, codes_flipped, random_flips, ranked
from brittle.diagnostics._formats import FORMATS, Rounded, codes, rounded
from brittle.diagnostics._weights import weights_of
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.region import Ball
from brittle.results import Bracket, Finding
from brittle.stats import mean_lower

ABOUT = About(
    promise="accuracy left by concrete weight faults (rounding, random and worst bit flips), and the weight ball that each lies in",
    reference="worst flips: A. Rakin, Z. He, D. Fan, Bit-flip attack: crushing neural network with progressive bit search, ICCV 2019",
    leaves=("parameter",),
    cost="about 20 forward and 2 backward passes per worst flip, 1 forward per random draw (236), and two quick questions of bt.accuracy",
    effort="thorough",
)
READINGS = (  # what an accuracy speaks of; they answer different questions and are never compared as if they were one
    "rounding",
    "random bit flips",
    "worst bit flips",
    "random corners",
    "one shared change",
    "each example its own change",
)
ALONE = 8  # networks of at most so many weight tensors are also measured with one tensor rounded at a time
NUMBERS = (
    2**25
)  # examples x moving weights that a bracket is asked of: each example carries its own copy of every weight
TAIL = 0.025  # on either side of an interval
NAMES = (
    "reading", "format", "leaf", "amount", "radius", "radius_rms", "radius_element", "change", "agreement", "accuracy", "low", "high",
    "worst", "fault", "status",
)  # fmt: skip


def faults(
    problem: Problem,
    *,
    accuracy: Callable[..., Bracket] | None = None,
    formats: Sequence[str] = FORMATS,
    draws: int = 59,
    flips: int = 12,
    candidates: int = 10,
    random: Sequence[int] = (1, 10, 100),
    ball: str | None = "int8",
    seed: int = 0,
) -> Finding:
    """The accuracy of these examples after faults of the weights, one row per fault, in readings that answer different questions.

    Concrete faults, each one member of a weight ball:

    - ``rounding``: every weight rounded to the format, all tensors at once (``leaf`` "all") and, in networks of at most 8 tensors, one at a time
    - ``random bit flips``: ``amount`` bits of the int8 weights, drawn uniformly, ``draws`` times
    - ``worst bit flips``: greedy search after the reference: all 8 x weights bits are ranked by gradient times change of the value, for the
      cross-entropy and for a bounded count of failures; the best ``candidates`` of both are tried, and the one that leaves the fewest examples
      right is kept. An upper end: other flips may be worse. They are chosen on the examples that they are judged on.

    A whole ball, all that a rounding to the format ``ball`` could do to each weight:

    - ``random corners``: every weight moved to a random end of its interval, ``draws`` times
    - ``one shared change``: one set of weights for all examples, as in a device; bracket [low, high]
    - ``each example its own change``: what certificates speak of, far stricter than any fault that was observed; bracket [low, high]

    Columns: ``reading``, ``format``, ``leaf``, ``amount`` (bits flipped or draws), ``radius`` (of the l-inf ball that holds every rounding),
    ``radius_rms`` (over the tensor's root mean square; for "all" the largest), ``radius_element`` (smallest zeta with change <= zeta |w|),
    ``change`` (largest that was made), ``agreement`` with the unperturbed predictions, ``accuracy`` (of random faults the mean over draws),
    ``low``, ``high`` (limits of that mean that hold with 95 % for any distribution; of a whole ball the bracket), ``worst`` (smallest
    accuracy of a draw: with 59 draws, 95 % of all draws leave at least that, with 95 % confidence; Wilks 1941), ``fault`` (the bit that
    was flipped last), ``status``. None where a column does not apply.

    accuracy    the verb of that name; ``bt.diagnose`` gives it. Without it the last two readings are left out
    formats     among "int8", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"; int8 is symmetric per tensor, floats are cast without a scale
    flips       length of the search for the worst flips; random: numbers of random flips
    ball        the format whose ball is asked about; None leaves it out

    Faulty are the parameters that the region moves; without any, all of two or more axes: biases and normalisation keep their values.
    Errors: InputError where nothing has weights. Deterministic in the seed.

    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.1], [0.1, 1.0]]))
    >>> problem = Problem(linear, torch.eye(2), torch.tensor([0, 1]))
    >>> found = faults(problem, formats=("int8",), flips=1, random=(), ball=None)
    >>> found.columns["fault"][-1], found.columns["accuracy"][-1]  # the sign bit of a diagonal weight
    ('weight[0, 0] bit 7', 0.5)
    """
    weights = weights_of(problem)
    if not weights:
        raise InputError("faults", "a module with weights", "none that may be faulty", "name parameters in the region")
    _check(formats, draws, flips, candidates, random, ball)
    bench = Bench.of(problem, weights)
    rows = [row for name in formats for row in _rounding(bench, name)]
    integers = {leaf: rounded(w, "int8") for leaf, w in weights.items()}
    held = {leaf: codes(w, integers[leaf].step) for leaf, w in weights.items()}
    steps = {leaf: r.step for leaf, r in integers.items()}
    rows += [_random_flips(bench, held, steps, count, draws, seed) for count in random]
    rows += _worst_flips(bench, held, steps, flips, candidates)
    if ball is not None:
        rows += [_corners(bench, ball, draws, seed), *([] if accuracy is None else _brackets(bench, accuracy, ball))]
    columns = {name: [row.get(name) for row in rows] for name in NAMES}
    size = sum(w.numel() for w in weights.values())
    said = f"{len(weights)} weight tensors, {size:,} weights, {BITS * size:,} bits as int8; {len(problem)} examples"
    return Finding("faults", "Faults of the weights", columns, note=_sentence(rows, bench.clean), value=said)


# ---- concrete faults -------------------------------------------------------------------------------------------------


def _rounding(bench: Bench, name: str) -> list[dict]:
    """One row with every tensor rounded, and one for each tensor: its balls, and in small networks the accuracy with it alone rounded."""
    found = {leaf: rounded(w, name) for leaf, w in bench.weights.items()}
    facts = {leaf: r.facts(bench.weights[leaf]) for leaf, r in found.items()}
    row = lambda leaf, facts, fits: {
        "reading": "rounding", "format": name, "leaf": leaf, **facts, "status": "ok" if fits else "outside the range of the format",
    }  # fmt: skip
    most = lambda key: max([v for f in facts.values() if (v := f[key]) is not None], default=0.0)
    largest = {key: most(key) for key in next(iter(facts.values()))}
    rows = [row("all", largest, all(r.fits for r in found.values())) | _left(bench, found)]
    alone = len(found) <= ALONE
    return rows + [
        row(leaf, facts[leaf], r.fits) | (_left(bench, {leaf: r}) if alone else {}) for leaf, r in found.items()
    ]


def _left(bench: Bench, found: Mapping[str, Rounded]) -> dict[str, float]:
    return bench.measure({leaf: r.value for leaf, r in found.items()})


def _corners(bench: Bench, name: str, draws: int, seed: int) -> dict:
    found = {leaf: rounded(w, name) for leaf, w in bench.weights.items()}
    seen = []
    for draw in range(draws):
        source = generator(seed, "corners", name, draw)
        seen.append(bench.measure({leaf: _corner(bench.weights[leaf], r.reach, source) for leaf, r in found.items()}))
    return {"reading": "random corners", "format": name, "leaf": "all", "amount": draws, **_over_draws(seen)}


def _corner(weight: Tensor, reach: Tensor, source: torch.Generator) -> Tensor:
    signs = 2 * torch.randint(2, tuple(weight.shape), generator=source).double() - 1
    return (weight.double() + signs.to(weight.device) * reach).to(weight.dtype)


def _random_flips(
    bench: Bench, held: Mapping[str, Tensor], steps: Mapping[str, float], count: int, draws: int, seed: int
) -> dict:
    seen = [
        bench.measure(_values(codes_flipped(held, random_flips(held, count, seed, draw)), steps, bench.weights))
        for draw in range(draws)
    ]
    return {"reading": "random bit flips", "format": "int8", "leaf": "all", "amount": count, **_over_draws(seen)}


def _over_draws(seen: Sequence[Mapping[str, float]]) -> dict:
    """The mean accuracy over independent draws with limits for any distribution, and the smallest one seen."""
    values = torch.tensor([s["accuracy"] for s in seen], dtype=torch.float64)
    return {
        "agreement": sum(s["agreement"] for s in seen) / len(seen), "accuracy": float(values.mean()), "low": mean_lower(values, TAIL),
        "high": 1 - mean_lower(1 - values, TAIL), "worst": float(values.min()), "status": "ok",
    }  # fmt: skip


def _worst_flips(
    bench: Bench, held: Mapping[str, Tensor], steps: Mapping[str, float], flips: int, candidates: int
) -> list[dict]:
    rows, done, codes_now = [], set(), dict(held)
    for count in range(1, flips + 1):
        now = _values(codes_now, steps, bench.weights)
        slopes = [bench.exchange.slopes(now, loss) for loss in (cross_entropy, bench.soft_failures)]
        best_first = dict.fromkeys(f for s in slopes for f in ranked(codes_now, steps, s, candidates, done))
        tried = [(bench.measure(_values(codes_flipped(codes_now, [f]), steps, bench.weights)), f) for f in best_first]
        if not tried:
            break
        best, chosen = min(tried, key=lambda pair: (pair[0]["accuracy"], -pair[0]["failures"]))
        codes_now = codes_flipped(codes_now, [chosen])
        done.add(chosen)
        rows.append({
            "reading": "worst bit flips", "format": "int8", "leaf": chosen.leaf, "amount": count, "accuracy": best["accuracy"],
            "agreement": best["agreement"], "fault": chosen.words(bench.weights[chosen.leaf].shape), "status": "ok",
        })  # fmt: skip
    return rows


def _values(held: Mapping[str, Tensor], steps: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {leaf: code.to(weights[leaf].dtype) * steps[leaf] for leaf, code in held.items()}


# ---- whole balls -----------------------------------------------------------------------------------------------------


def _brackets(bench: Bench, accuracy: Callable[..., Bracket], name: str) -> list[dict]:
    """Everything that any rounding to nearest of this format could do, in both readings of a ball."""
    found = {leaf: rounded(w, name) for leaf, w in bench.weights.items()}
    size = len(bench.problem) * sum(w.numel() for w in bench.weights.values())
    rows = []
    for reading, shared in (("one shared change", True), ("each example its own change", False)):
        row = {
            "reading": reading,
            "format": name,
            "leaf": "all",
            "radius": max(float(r.reach.max()) for r in found.values()),
        }
        if size > NUMBERS:
            rows.append({**row, "status": f"not asked: {size:,} numbers, one copy of the weights per example"})
            continue
        if not all(r.fits for r in found.values()):  # the ball would not hold what the rounding does
            rows.append({**row, "status": "not asked: outside the range of the format"})
            continue
        region = {leaf: _ball(bench.weights[leaf], r, shared) for leaf, r in found.items()}
        try:
            answer = accuracy(bench.problem.within(region))
        except InputError as reason:
            rows.append({**row, "status": f"not asked: {reason}"})
            continue
        rows.append({**row, "low": float(answer.lower), "high": float(answer.upper), "status": answer.status[0]})
    return rows


def _ball(weight: Tensor, found: Rounded, shared: bool) -> Ball:
    """The box of all weights within reach: the l-inf ball of the largest reach, cut to each weight's own."""
    wide = weight.double()
    return Ball(p=inf, radius=float(found.reach.max()), low=wide - found.reach, high=wide + found.reach, shared=shared)


# ---- words -----------------------------------------------------------------------------------------------------------


def _sentence(rows: Sequence[Mapping], clean: float) -> str:
    pick = lambda reading: [r for r in rows if r["reading"] == reading]
    percent = lambda v: f"{100 * v:.1f} %"
    kept = ", ".join(f"{r['format']} {percent(r['accuracy'])}" for r in pick("rounding") if r["leaf"] == "all")
    said = f"Right before any fault: {percent(clean)}; all weights rounded to {kept}."
    worst = pick("worst bit flips")
    if worst:
        said += f" After {len(worst)} chosen bit flips of int8 weights {percent(worst[-1]['accuracy'])} are right."
        same = [r for r in pick("random bit flips") if r["amount"] >= len(worst)]
        said += f" {same[0]['amount']} random flips leave {percent(same[0]['accuracy'])} on average." if same else ""
    for row in (r for r in pick("each example its own change") if r.get("low") is not None):
        said += f" Certified against every rounding to {row['format']}, a worst one for each example by itself: {percent(row['low'])}."
    return said + " Concrete faults, one shared change and a change for each example are three different questions."


def _check(
    formats: Sequence[str], draws: int, flips: int, candidates: int, random: Sequence[int], ball: str | None
) -> None:
    for name in (*formats, *([] if ball is None else [ball])):
        if name not in FORMATS:
            raise InputError("formats", f"among {', '.join(FORMATS)}", repr(name), "choose among these")
    if (
        isinstance(formats, str)
        or not formats
        or draws < 1
        or flips < 0
        or candidates < 1
        or any(k < 1 for k in random)
    ):
        raise InputError(
            "faults", "a list of formats, draws and candidates >= 1, flips >= 0", (formats, draws, flips, candidates), "correct them"
        )  # fmt: skip
