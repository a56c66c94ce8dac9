"""Real digits: upsampled, so that most directions hold no data; and as they are, where no direction is exactly empty."""

from collections.abc import Mapping
from functools import lru_cache
from math import inf, isfinite

import torch
from torch import Tensor, nn

from brittle.randomness import fold
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part, curve, measured, verdict
from brittle.studies._study import Claim, Plot, Table

SCALES, SIZES, RUNS = (0.5, 1.0, 2.45, 5.0, 10.0), (8, 16, 32), 10
EPOCHS, RATE = 60, 0.2  # plain gradient descent in batches of 64; Adam takes a hundredth of the rate
BAD, SMALL = 5.0, 0.1  # the initialisation that the cures are asked to cure, and the small one that is a cure itself
ENERGIES = (0.99, 0.95, 0.9, 0.8)
CURES = (
    "none",
    "surgery",
    "initialisation",
    "decay",
    "off_decay",
    "adam",
    "decoupled",
    "coupled",
    "off_gradient",
    "gradient",
    "noise",
    "adversarial",
)
TESTED, ATTACKED = 200, 24
SOURCE = "arXiv 2303.00783"


def upsampled(x: Tensor, size: int) -> Tensor:
    """(N, 64) digits as (N, size²): every pixel repeated; the rank stays that of the 8 x 8 images."""
    k = size // 8
    return x.reshape(-1, 8, 8).repeat_interleave(k, 1).repeat_interleave(k, 2).flatten(1)


def digits_network(
    size: int, scale: float, run: int, seed: int, kind: str = "mlp", optimiser: str = "sgd", rotated: bool = False
) -> dict:
    """Train on digits whose first layer starts at ``scale`` times torch's default, and split its gradient and its smallest perturbations."""
    x, labels, test, truth = _data(size, rotated, seed)
    module = _network(kind, x.shape[1], scale, fold(seed, "digits", run))
    done = _train(module, x, labels, run + seed, optimiser=optimiser)
    return _judged(done, module, test, truth, seed, _plane(size, rotated, seed))


def cured(cure: str, run: int, seed: int) -> dict:
    """The same network from a bad initialisation (d = 1024), trained or repaired by one cure; for "none" with what surgery makes of it."""
    from brittle.cures.initialisation import initialisation
    from brittle.cures.surgery import surgery

    x, labels, test, truth = _data(32, False, seed)
    module = _network("mlp", x.shape[1], BAD, fold(seed, "digits", run))
    if cure == "initialisation":
        module = initialisation(module, SMALL / BAD)
    plane = _plane(32, False, seed)
    options: dict[str, dict[str, object]] = {
        "decay": {"weight_decay": 1e-2}, "adam": {"optimiser": "adam"}, "decoupled": {"optimiser": "adam", "weight_decay": 0.01},
        "coupled": {"optimiser": "adam", "weight_decay": 1e-3, "decoupled": False},
        "off_decay": {"penalties": {"weight_decay": {"weight": 1e-2, "subspace": plane}}},
        "off_gradient": {"penalties": {"off_subspace": {"weight": 1e-2, "subspace": plane}}},
        "gradient": {"penalties": {"gradient": {"weight": 1e-2, "of": "margin"}}},
        "noise": {"penalties": {"noise": {"weight": 1.0, "sigma": 0.1}}, "clean_weight": 0.0},
        "adversarial": {"penalties": {"adversarial": {"weight": 1.0, "p": 2, "radius": 1.3, "steps": 3}}, "clean_weight": 0.0},
    }  # fmt: skip
    done = _train(module, x, labels, run + seed, **options.get(cure, {}))
    judged = _judged(done, module, test, truth, seed, plane)
    if cure != "none":
        return judged
    cut = surgery(done, plane)
    after = {f"surgery_{k}": v for k, v in _judged(cut, module, test, truth, seed, plane).items()}
    return {**judged, **after, **_other_norms(cut, done, test, truth)}


def native(energy: float, run: int, seed: int) -> dict:
    """Digits as they are (d = 64): the share off their principal components, and what surgery then gains and costs."""
    from brittle.cures.surgery import surgery
    from brittle.subspace import Subspace

    x, labels, test, truth = _data(8, False, seed)
    module = _network("mlp", 64, 1.0, fold(seed, "digits", run))
    done, plane = _train(module, x, labels, run + seed), Subspace.pca(x, energy=energy)
    before = _judged(done, module, test, truth, seed, plane)
    after = _judged(surgery(done, plane), module, test, truth, seed, plane)
    local = _local(done, x, test, truth, seed)
    return {
        **before,
        "dimension": plane.dimension,
        "after": after["radius"],
        "accuracy_after": after["accuracy"],
        **local,
    }


@lru_cache(maxsize=4)
def _data(size: int, rotated: bool, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test digits; ``rotated``: embedded by a random rotation, so that no coordinate is a direction of the data."""
    from brittle.sources.digits import digits

    (x, labels), (test, truth) = digits("train"), digits("test")
    x, test = upsampled(x, size), upsampled(test[:TESTED], size)  # type: ignore[arg-type,index]
    if rotated:
        draw = torch.Generator().manual_seed(fold(seed, "rotation"))
        turn = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=draw)).Q
        x, test = x @ turn, test @ turn
    return x, labels, test, truth[:TESTED]


@lru_cache(maxsize=4)
def _plane(size: int, rotated: bool, seed: int):
    """The span of the training digits: the same for every cell of a worker, and its decomposition costs a third of a training."""
    from brittle.subspace import Subspace

    return Subspace.span(_data(size, rotated, seed)[0])


def _network(kind: str, features: int, scale: float, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = int(features**0.5)
        if kind == "cnn":
            layers = [nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU(),
                      nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(side * side, 10)]  # fmt: skip
        else:
            hidden = [100] * (1 if kind == "shallow" else 2)
            widths = [features, *hidden, 10]
            layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
        module = nn.Sequential(*layers)
    first = module[1] if kind == "cnn" else module[0]
    with torch.no_grad():
        first.weight.mul_(scale)  # type: ignore[union-attr,operator]
    return module


def _train(module: nn.Module, x: Tensor, labels: Tensor, seed: int, **options: object) -> nn.Module:
    from brittle.training import train

    adam = options.get("optimiser") == "adam"
    settings: dict = {
        "optimiser": "sgd", "rate": RATE / 100 if adam else RATE, "schedule": "constant", "decoupled": adam, "epochs": EPOCHS, "seed": seed,
    }  # fmt: skip
    return train(module, x, labels, **{**settings, **options}).module


def _judged(done: nn.Module, initial: nn.Module, test: Tensor, truth: Tensor, seed: int, plane) -> dict:
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball

    problem = Problem(done, test, truth, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=initial, attacked=ATTACKED, seed=seed).columns
    right = problem.margin() > 0
    length = test.flatten(1).norm(dim=1)[:ATTACKED]
    kept = lambda v: None if not len(v) or not isfinite(float(v.nanmedian())) else float(v.nanmedian())
    part = lambda name: kept((found[name][:ATTACKED] / length)[right[:ATTACKED]])  # type: ignore[index]
    middle = lambda name: kept(found[name][right]) if name in found else None  # type: ignore[index]
    return {
        "accuracy": float(right.double().mean()), "share": middle("share"), "gain": middle("removable_gain"), "ratio": middle("ratio"),
        "chance": plane.chance, "at_init": middle("share_at_init"), "on_radius": part("on_radius"), "off_radius": part("off_radius"),
        "radius": part("radius"),
        "survives": float(((found["radius"][:ATTACKED] > 0.1 * length) & right[:ATTACKED]).double().mean()),  # type: ignore[index]
    }  # fmt: skip


def _other_norms(after: nn.Module, before: nn.Module, test: Tensor, truth: Tensor) -> dict:
    """What surgery gains in l1 and l-inf, where there is no Pythagoras."""
    from brittle.problem import Problem
    from brittle.questions.radius import radius
    from brittle.region import Ball

    gains = {}
    for name, p in (("gain_l1", 1), ("gain_linf", inf)):
        ends = [
            radius(
                Problem(m, test[:ATTACKED], truth[:ATTACKED], Ball(p=p, radius=1.0)), effort="quick", ends="upper"
            ).upper
            for m in (after, before)
        ]
        right = (ends[0] > 0) & (ends[1] > 0)
        gains[name] = float((ends[0] / ends[1])[right].median())
    return gains


def _local(done: nn.Module, x: Tensor, test: Tensor, truth: Tensor, seed: int) -> dict:
    """The share of the gradient normal to local tangent spaces: 10 components of the 20 nearest training digits."""
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball
    from brittle.subspace import Subspace

    plane = Subspace.local(x, neighbours=20, dimension=10)
    problem = Problem(done, test, truth, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=done, attacked=0, seed=seed).columns
    return {"local_share": float(found["share"].nanmedian()), "local_chance": plane.chance}  # type: ignore[union-attr]


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Ten runs of the sweep over initialisations and of the cures, five of everything else."""
    found: dict[str, tuple] = {}
    for run in range(RUNS):
        found |= {f"digits-scale{s:g}-{run}": (digits_network, 32, s, run, seed) for s in SCALES}
        found |= {f"digits-shallow{s:g}-{run}": (digits_network, 32, s, run, seed, "shallow") for s in SCALES}
        found |= {f"digits-cure-{c}-{run}": (cured, c, run, seed) for c in CURES if c != "surgery"}
    for run in range(RUNS // 2):
        found |= {f"digits-size{n}-{run}": (digits_network, n, 2.45, run, seed) for n in SIZES}
        found |= {f"digits-{o}-{run}": (digits_network, 16, 0.1, run, seed, "mlp", o, True) for o in ("sgd", "adam")}
        found |= {f"digits-energy{e:g}-{run}": (native, e, run, seed) for e in ENERGIES}
    return found


def part(found: Mapping[str, dict]) -> Part:
    """What initialisation leaves behind on real digits, and what the cures gain."""
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"digits-{word}"]
    plain = lambda word, name: median_of([r.get(name) for r in runs(word)])
    middle = lambda word, name: plain("cure-none", f"surgery_{name}") if word == "cure-surgery" else plain(word, name)
    return Part(claims(middle), tables(middle), plots(middle))


def claims(middle) -> tuple[Claim, ...]:
    best, worst = middle("scale0.5", "radius"), middle("scale10", "radius")
    shares = {s: middle(f"scale{s:g}", "share") for s in SCALES}
    surgery, none = middle("cure-surgery", "radius"), middle("cure-none", "radius")
    gain, measured_gain = middle("cure-none", "gain").value, surgery.value / none.value
    sgd, adam = middle("sgd", "off_radius"), middle("adam", "off_radius")
    ratio = [middle(f"{k}{s:g}", "ratio") for k in ("scale", "shallow") for s in SCALES]
    small, decay, off = (middle(f"cure-{c}", "radius") for c in ("initialisation", "decay", "off_decay"))
    coupled, decoupled = middle("cure-coupled", "share"), middle("cure-decoupled", "share")
    native = {e: (middle(f"energy{e:g}", "share").value, middle(f"energy{e:g}", "gain").value) for e in ENERGIES}
    local, chance = middle("energy0.9", "local_share"), middle("energy0.9", "local_chance").value
    return (
        Claim(
            "The phenomenon is there on real images whose pixels repeat, and grows with the initialisation", f"{SOURCE}, on data it did not test",
            "only when" if shares[1.0].high < 0.3 else "reproduced",
            "only with large initialisation: share of the gradient off the data (d = 1024, chance 94 %) at init x "
            + ", ".join(f"{s:g}: {m}" for s, m in shares.items()),
        ),
        Claim(
            "Smaller initialisation makes the trained network more robust at equal clean accuracy", SOURCE, verdict(best.low > worst.high),
            f"smallest l2 perturbation / |x|: {best} at half of torch's default, {worst} at ten times it; clean accuracy {middle('scale0.5', 'accuracy')} and {middle('scale10', 'accuracy')}",
        ),
        Claim(
            "Removing the off part gains 1 / sqrt(1 - share) in l2, no less and no more", "derived", "ours" if abs(measured_gain / gain - 1) < 0.05 else "not reproduced",
            f"surgery on a badly initialised network: predicted {gain:.2f}, measured {measured_gain:.2f} (radius {none} to {surgery}); in l1 {middle('cure-none', 'gain_l1').value:.2f}, in l-inf {middle('cure-none', 'gain_linf').value:.2f}",
        ),
        Claim(
            "The frozen-noise law predicts the off gradient of real networks", "derived", "ours" if all(abs(m.value - 1) < 0.03 for m in ratio) else "not reproduced",
            "measured / predicted, median: " + ", ".join(f"{m.value:.3f}" for m in ratio) + " (five initialisations of three layers, then of two)",
        ),
        Claim(
            "Small initialisation cures networks trained with gradient descent, not those trained with Adam", "ours", "ours" if adam.high < sgd.low else "not reproduced",
            f"rotated digits in R^256, a tenth of the initialisation: off distance / |x| {sgd} after gradient descent, {adam} after Adam",
        ),
        Claim(
            "On natural small images (principal components) the linear story explains a small part of the vulnerability", "ours", "ours",
            "share and largest gain of 8 x 8 digits: " + "; ".join(f"{100 * e:g} % of the variance: {s:.2f}, x {g:.2f}" for e, (s, g) in native.items()),
        ),
        Claim(
            "Along a curved manifold standard gradients already lean towards the data", "ours", "ours" if local.value < chance else "not reproduced",
            f"share normal to local tangent spaces (10 of 20 neighbours): {local}, by chance {chance:.2f}",
        ),
        Claim(
            "Smaller initialisation and weight decay cure a badly initialised network on real digits", SOURCE, verdict(min(small.low, decay.low, off.low) > none.high),
            f"smallest l2 perturbation / |x| {none} before; first layer started at a fiftieth {small}, weight decay 0.01 {decay}, decay of the part off the data alone {off}; clean accuracy "
            f"{middle('cure-none', 'accuracy')}, then {middle('cure-initialisation', 'accuracy')}, {middle('cure-decay', 'accuracy')}, {middle('cure-off_decay', 'accuracy')}",
        ),
        Claim(
            "Under Adam a tenth of the decay, coupled, does what decoupled decay does not", "ours", "ours" if coupled.high < decoupled.low else "not reproduced",
            f"share off the data {middle('cure-adam', 'share')} with Adam alone, {decoupled} with decoupled decay 0.01, {coupled} with coupled decay 0.001",
        ),
    )  # fmt: skip


def tables(middle) -> tuple[Table, ...]:
    names = ("accuracy", "share", "gain", "off_radius", "on_radius", "radius", "survives")
    columns = (
        "clean accuracy",
        "share off",
        "largest gain",
        "off distance / |x|",
        "on distance / |x|",
        "distance / |x|",
        "right at 10 % of |x|",
    )
    row = lambda title, word: (title, *(_cell(middle(word, n)) for n in names))
    note = f"Medians over the runs [95 % interval, of five runs 94 %] of medians over {ATTACKED} test digits. A dash: no perturbation was found off the data."
    return (
        Table("Initialisation of the first layer, digits upsampled to d = 1024", ("times torch's default", *columns), tuple(row(f"{s:g}", f"scale{s:g}") for s in SCALES), note),
        Table("Cures at d = 1024 from five times the default", ("cure", *columns), tuple(row(WORDS[c], f"cure-{c}") for c in CURES), note),
        Table(
            "Digits as they are (d = 64), by the variance that the subspace keeps", ("variance kept", "dimension", *columns, "distance after surgery", "accuracy after surgery"),
            tuple((f"{e:g}", _cell(middle(f"energy{e:g}", "dimension")), *row("", f"energy{e:g}")[1:], _cell(middle(f"energy{e:g}", "after")), _cell(middle(f"energy{e:g}", "accuracy_after"))) for e in ENERGIES), note,
        ),
    )  # fmt: skip


WORDS = {
    "none": "none", "surgery": "surgery, no retraining", "initialisation": "first layer started at a fiftieth", "decay": "weight decay 0.01, gradient descent",
    "off_decay": "weight decay 0.01 of the part off the data alone", "adam": "Adam instead of gradient descent", "decoupled": "Adam with decoupled decay 0.01",
    "coupled": "Adam with coupled decay 0.001",
    "off_gradient": "off-gradient penalty 0.01", "gradient": "gradient penalty 0.01", "noise": "Gaussian noise 0.1", "adversarial": "l2 adversarial training, 1.3",
}  # fmt: skip


def _cell(middle: Middle) -> str:
    return str(middle) if middle.runs else "–"


def plots(middle) -> tuple[Plot, ...]:
    at = lambda name: [middle(f"scale{s:g}", name) for s in SCALES]
    gains = [m.value for m in at("gain")]
    return (
        Plot(
            "Same clean accuracy, another robustness: only the frozen noise differs", "initialisation of the first layer, times torch's default", "smallest l2 perturbation / |x|",
            (measured("anywhere", SCALES, at("radius")), measured("inside the data's span", SCALES, at("on_radius")), measured("orthogonal to it", SCALES, at("off_radius"))),
            "Digits upsampled to 32 x 32: 61 of 1024 dimensions hold data.", log_x=True, log_y=True,
        ),
        Plot(
            "What removing the off part can gain", "initialisation of the first layer, times torch's default", "factor in l2",
            (curve("largest gain 1 / sqrt(1 - share)", SCALES, gains), measured("share off the data", SCALES, at("share"))), log_x=True,
        ),
    )  # fmt: skip
