"""Convolutions on upsampled digits: what is frozen is the part of the kernels off the span of the patches."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from brittle.randomness import fold
from brittle.studies import _subspace_digits as digits
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part
from brittle.studies._study import Claim, Table

SIZE, SCALES, RUNS = 16, (1.0, 5.0), 10
KERNEL, STRIDE, PADDING = 3, 2, 1


def convolutional(scale: float, run: int, seed: int) -> dict:
    """Train a small convolutional network on digits of 16 x 16 pixels (every pixel of 8 x 8 twice), its kernels drawn at ``scale`` times torch's default.

    A kernel of 3 x 3 at stride 2 sees patches whose rows and columns repeat: 4 of 9 dimensions. What its kernels read of the other five
    is never trained by gradient descent. Cures: the kernels projected onto the span of the patches, and the input onto that of the images.
    """
    from brittle.cures.projection import projection
    from brittle.subspace import Subspace

    x, labels, test, truth = digits._data(SIZE, False, seed)
    module = digits._network("cnn", SIZE**2, scale, fold(seed, "digits", run))
    done = digits._train(module, x, labels, run + seed)
    plane, patches = digits._plane(SIZE, False, seed), Subspace.span(_patches(x).reshape(-1, KERNEL**2)[: 2**16])
    before, after = (m[1].weight.detach().flatten(1) for m in (module, done))  # type: ignore[index,union-attr,operator]
    start = patches.off(before)
    judged = digits._judged(done, module, test, truth, seed, plane)
    cured, projected = _cut(done, patches), projection(done, plane)
    kernels, input_ = (_cured(m, test, truth, seed, plane) for m in (cured, projected))
    with torch.no_grad():
        change = float((cured(x) - done(x)).abs().max())  # type: ignore[operator]
    return {
        **judged, "moved": float((patches.off(after) - start).norm() / start.norm()), "moved_on": float(patches.on(after - before).norm() / patches.on(before).norm()),
        "patch_dimension": patches.dimension, "patch_ratio": _law(done, before, patches, test, truth), "changed": change,
        "kernel_share": kernels[0], "kernel_radius": kernels[1], "input_radius": input_[1],
    }  # fmt: skip


def _cured(network: nn.Module, test: Tensor, truth: Tensor, seed: int, plane) -> tuple[float, float]:
    """Median share off the images, and median smallest perturbation over |x|."""
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.questions.radius import radius
    from brittle.region import Ball

    problem = Problem(network, test, truth, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=network, attacked=0, seed=seed).columns
    few = problem.take((problem.margin() > 0).nonzero()[: digits.ATTACKED, 0])
    sizes = radius(few, effort="quick", ends="upper", seed=seed).upper / few.inputs["x"].flatten(1).norm(dim=1)
    return float(found["share"].nanmedian()), float(sizes.median())  # type: ignore[union-attr]


def _patches(x: Tensor) -> Tensor:
    """(N, positions, 9) the patches that the first layer sees."""
    return unfold(x.reshape(-1, 1, SIZE, SIZE), KERNEL, padding=PADDING, stride=STRIDE).mT


def _cut(done: nn.Module, patches) -> nn.Module:
    """The kernels of the first layer projected onto the span of the patches: outputs on the data stay."""
    cured = deepcopy(done)
    weight = cured[1].weight  # type: ignore[index]
    with torch.no_grad():
        weight.copy_(patches.on(weight.flatten(1)).reshape(weight.shape))  # type: ignore[union-attr,operator]
    return cured


def _law(done: nn.Module, before: Tensor, patches, test: Tensor, truth: Tensor) -> float:
    """Measured over predicted length of the margin's gradient by all patches, off their span: s0 sqrt(l) |dm/dh|, l dimensions off the span."""
    rest = list(done.double().eval().children())  # type: ignore[union-attr]
    h = rest[1](rest[0](test.double())).detach().requires_grad_()
    logits = nn.Sequential(*rest[2:])(h)
    rival = logits.detach().scatter(1, truth[:, None], -torch.inf).argmax(1)
    margin = (logits.gather(1, truth[:, None]) - logits.gather(1, rival[:, None])).sum()
    (slope,) = torch.autograd.grad(margin, h)
    by_patch = torch.einsum("nchw,ck->nhwk", slope, patches.off(rest[1].weight.detach().flatten(1)))  # type: ignore[union-attr,operator]
    spread = float(before.double().std(correction=0))
    measured = by_patch.flatten(1).norm(dim=1)
    done.float()
    return float((measured / (spread * sqrt(patches.codimension) * slope.flatten(1).norm(dim=1))).nanmedian())


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs at three initialisations."""
    return {f"convolutions-scale{s:g}-{run}": (convolutional, s, run, seed) for run in range(RUNS) for s in SCALES}


def part(found: Mapping[str, dict]) -> Part:
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"convolutions-{word}"]
    middle = lambda word, name: median_of([r[name] for r in runs(word)])
    return Part(claims(middle), tables(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    at = lambda name: {s: middle(f"scale{s:g}", name) for s in SCALES}
    moved, ratio, share, kernel = at("moved"), at("patch_ratio"), at("share"), at("kernel_share")
    most = SCALES[-1]
    gain = at("kernel_radius")[most].value / at("radius")[most].value
    whole = at("input_radius")[most].value / at("radius")[most].value
    return (
        Claim(
            "In a convolutional layer the part of the kernels off the span of the patches is frozen, and the law holds there", "derived",
            "ours" if max(m.value for m in moved.values()) < 1e-5 and all(abs(r.value - 1) < 0.1 for r in ratio.values()) else "not reproduced",
            f"upsampled digits fill {at('patch_dimension')[most].value:.0f} of {KERNEL**2} dimensions of a patch; the kernels' part off them moves by {max(m.value for m in moved.values()):.0e} of "
            f"its length, the rest by {at('moved_on')[most].value:.0%}; gradient by the patches off their span, measured / predicted: " + ", ".join(f"init x {s:g}: {r}" for s, r in ratio.items()),
        ),
        Claim(
            "Convolutional networks are vulnerable off upsampled images too, and more with larger initialisation", "ours",
            "ours" if share[most].low > share[SCALES[0]].high else "not reproduced",
            "share of the gradient off the data at init x " + ", ".join(f"{s:g}: {m}" for s, m in share.items()),
        ),
        Claim(
            "Kernels projected onto the span of the patches keep every output on the data, and remove a part of the weakness off the images; a projected input removes all of it", "ours",
            "ours" if kernel[most].high < share[most].low and at("changed")[most].value < 1e-3 else "not reproduced",
            f"at init x {most:g} the share falls from {share[most]} to {kernel[most]}, the smallest perturbation grows {gain:.2f}-fold (a projected input: {whole:.2f}-fold); logits on the data "
            f"change by {at('changed')[most].value:.0e}",
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    names = (
        "accuracy",
        "share",
        "patch_ratio",
        "off_radius",
        "on_radius",
        "radius",
        "kernel_share",
        "kernel_radius",
        "input_radius",
    )
    columns = (
        "times torch's default", "clean accuracy", "share off", "patches: measured / predicted", "off distance / |x|", "on distance / |x|", "distance / |x|",
        "share, kernels projected", "distance, kernels projected", "distance, input projected",
    )  # fmt: skip
    rows = tuple((f"{s:g}", *(str(m) if (m := middle(f"scale{s:g}", n)).runs else "–" for n in names)) for s in SCALES)
    note = f"Two convolutions of 3 x 3 at stride 2 and a dense layer, digits of {SIZE} x {SIZE} pixels. Medians of ten runs [95 % interval] of medians over {digits.ATTACKED} test digits."
    return (Table("A convolutional network on upsampled digits", columns, rows, note),)
