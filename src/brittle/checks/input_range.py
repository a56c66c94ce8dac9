"""H1: are the inputs in the range the model was trained on, and normalised once, not twice or never?"""

from collections.abc import Iterator
from math import comb, inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import correct, failed, few, interval, passed, raw_logits, share
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H1: no well-known rescaling of the inputs is classified much better, and the data fill the declared range",
    reference="Carlini et al. 2019, evaluating adversarial robustness, checklist; the paired test: McNemar 1947",
    answers="before",
    cost="up to 18 forward passes, none where every example is classified correctly",
)
TITLE = "input range and normalisation (H1)"
CONSTANTS = {  # the means and deviations that are common in model zoos, per number of channels
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "-1..1": ((0.5,), (0.5,)),
}
GAIN = 0.1  # less is no different range but another accuracy (folklore)
NARROW = 0.01  # a declared range of which the data fill less than this share was meant for other units (folklore)


def input_range(problem: Problem, *, seed: int = 0) -> Finding:
    """Quantiles of the data against the declared range, and clean accuracy of rescaled inputs against the inputs as given.

    A rescaled version counts as better where it gains a tenth of the examples, the exact paired sign test rejects chance at
    0.01 (Bonferroni over the versions), and it beats the share of the most frequent label.
    """
    part = few(problem, 128)
    spans = [_span(problem, leaf, v) for leaf, v in problem.inputs.items() if v.is_floating_point()]
    value = "; ".join(f"{leaf}: {low:.4g}..{high:.4g}" for leaf, low, high, _, _ in spans)
    better = _better_version(part)
    if better is not None:
        how, theirs, ours = better
        return failed(
            "input_range",
            TITLE,
            "stop",
            f"The inputs {how} are classified with accuracy {theirs:.2f}, the inputs as given with {ours:.2f}.",
            f"The model expects other inputs: {how} they reach accuracy {theirs:.2f} instead of {ours:.2f}, so give them in "
            "that form or make the conversion the first layer of the model.",
            value=f"{ours:.2f} as given, {theirs:.2f} {how}",
            threshold=f"gain {GAIN:g}, sign test at 0.01",
        )
    for leaf, low, high, floor, ceiling in spans:
        if (high - low) < NARROW * (ceiling - floor) < inf and high > low:
            return failed(
                "input_range",
                TITLE,
                "warn",
                f"The data of {leaf!r} lie in {low:.4g}..{high:.4g}, the declared range is {floor:.4g}..{ceiling:.4g}.",
                f"The declared range of {leaf!r} is over {1 / NARROW:.0f} times wider than the data, so radius and range are "
                "probably in other units than the inputs; state both in the units of the inputs.",
                value=value,
                threshold=f"{NARROW:g} of the range",
            )
    return _believed(spans, value)


def _believed(spans: list, value: str) -> Finding:
    """The verdict where nothing is wrong: a remark if the range was not declared."""
    if not spans:
        return passed("input_range", TITLE, "The inputs are integers, so no range applies.")
    ranges = ", ".join(f"{leaf!r} from {low:.4g} to {high:.4g}" for leaf, low, high, _, _ in spans)
    open_ended = any(floor == -inf or ceiling == inf for *_, floor, ceiling in spans)
    if open_ended:
        note = f"The central 99.8 % of the data run in {ranges}; no valid range is declared, so perturbed inputs may leave it."
    else:
        note = f"The central 99.8 % of the data run in {ranges}, inside the declared range."
    return passed("input_range", TITLE, note, value=value, remark=open_ended)


def _span(problem: Problem, leaf: str, value: Tensor) -> tuple[str, float, float, float, float]:
    """Leaf, 0.1 % and 99.9 % quantile of its data, and the declared range."""
    data = value.detach().double().flatten()
    data = data[:: max(1, data.numel() // 1_000_000)]
    low, high = data.quantile(torch.tensor([0.001, 0.999], dtype=torch.float64, device=data.device)).tolist()
    ball = problem.region.get(leaf)
    if ball is None:
        return leaf, low, high, -inf, inf
    floor, ceiling = ball.exact_range(value)
    return leaf, low, high, float(floor.min()), float(ceiling.max())


def _better_version(problem: Problem) -> tuple[str, float, float] | None:
    """The rescaled version that is significantly better: in words, its accuracy, the accuracy of the inputs as given."""
    given = correct(problem, raw_logits(problem))
    versions = list(_versions(problem)) if not bool(given.all()) else []
    if not versions:
        return None
    how, hits = max(((how, _hits(problem, x)) for how, x in versions), key=lambda v: int(v[1].sum()))
    gain, majority = share(hits) - share(given), share(problem.labels == problem.labels.mode().values)
    chance = sign_test(int((hits & ~given).sum()), int((given & ~hits).sum()))
    if gain >= GAIN and chance * len(versions) <= 0.01 and interval(hits)[0] > majority:
        return how, share(hits), share(given)
    return None


def _hits(problem: Problem, x: "Tensor | dict[str, Tensor]") -> Tensor:
    """Which examples are classified correctly at these inputs."""
    logits = raw_logits(problem, x)
    return correct(problem, logits) & logits.isfinite().all(1).cpu()


def sign_test(gained: int, lost: int) -> float:
    """P(at least ``gained`` of ``gained + lost`` fair coins): the exact one-sided test of McNemar for paired answers.

    >>> sign_test(3, 0)
    0.125
    """
    total = gained + lost
    return sum(comb(total, k) for k in range(gained, total + 1)) / 2**total


def _versions(problem: Problem) -> Iterator[tuple[str, "Tensor | dict[str, Tensor]"]]:
    """Every well-known rescaling of every floating-point input, the other inputs as they are."""
    if isinstance(problem.x, Tensor):
        yield from _rescaled(problem.x)
        return
    for name, value in problem.x.items():
        if value.is_floating_point():
            for how, other in _rescaled(value):
                yield f"with {name!r} {how}", {**problem.x, name: other}


def _rescaled(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    if not x.is_floating_point():
        return
    for factor in (255, 16):
        yield f"multiplied by {factor}", x * factor
        yield f"divided by {factor}", x / factor
    if len(x) >= 16:  # fewer examples say too little about the deviation of a feature
        deviation = x.std(0)
        yield "standardised per feature", (x - x.mean(0)) / torch.where(deviation > 0, deviation, 1)
    channels = x.shape[1] if x.dim() == 4 else 1
    for name, (mean, deviation) in CONSTANTS.items():
        if len(mean) not in (1, channels):
            continue
        shape = (-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else (1,)
        m, s = (x.new_tensor(v).reshape(shape) for v in (mean, deviation))
        yield f"normalised with the constants of {name}", (x - m) / s
        yield f"with the normalisation of {name} undone", x * s + m
