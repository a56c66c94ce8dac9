"""make bench-worst-case: the upper ends of brittle and of its peers, in one run, on the same networks and examples.

Four networks trained by the recipe below (cached in build/bench, told by their digest), 200 test examples that every network of the data set gets right.
For every norm: median distance, *excess* (mean of distance / best known of all peers - 1; a failure, or more than twice the best, counts 1), passes
(wherever they happen), processor time, and its ratio to the bare passes in the same run. Peers that are not importable are left out and named:
``pip install --no-deps foolbox eagerpy adv-lib torchattacks`` somewhere and put that folder in PEERS_PATH.

    python benchmarks/worst_case.py [--networks mlp cnn] [--norms l2] [--count 200] [--peers-only | --no-peers]

What was measured of a peer is kept in build/bench/peers, so a second run measures brittle alone.
"""

import argparse
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from pathlib import Path

import torch
from floor import passes, seconds
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.digest import weights_digest
from brittle.problem import Problem
from brittle.sources.assets import mnist
from brittle.sources.digits import digits

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
NORMS = {"l0": 0, "l1": 1, "l2": 2, "linf": inf}
CERTIFIED = {"quick": 50, "standard": 20, "thorough": 6}  # examples, on all networks but the smallest
EFFORTS = ("quick", "standard", "thorough")


# ---- networks and examples ------------------------------------------------------------------------------------------------


def architecture(name: str) -> nn.Module:
    if name == "digits":
        return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
    if name == "mlp":
        layers = (nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
        return nn.Sequential(nn.Flatten(), *layers)
    first = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10))


def trained(name: str) -> nn.Module:
    """Adam, batches of 128, seed 0: digits 60 epochs at 2e-3; mlp and cnn 3 epochs at 1e-3; cnn_adv 5 epochs against l-inf PGD (.3 / 7 steps, from .1 up)."""
    torch.manual_seed(0)
    module = architecture(name)
    kept = BUILD / f"{name}.pt"
    if kept.exists():
        module.load_state_dict(torch.load(kept, weights_only=True))
        return module.eval()
    data = digits("train") if name == "digits" else mnist("train")
    epochs, rate = {"digits": (60, 2e-3), "cnn_adv": (5, 1e-3)}.get(name, (3, 1e-3))
    optimiser, g = torch.optim.Adam(module.parameters(), rate), torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for at in torch.randperm(len(data.x), generator=g).split(128):
            x, labels = data.x[at], data.labels[at]
            if name == "cnn_adv":
                x = pgd(module, x, labels, radius=0.3 * min(1.0, (epoch + 1) / 3), steps=7)
            loss = nn.functional.cross_entropy(module(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    BUILD.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), kept)
    return module.eval()


def pgd(module: nn.Module, inputs: Tensor, labels: Tensor, radius: float, steps: int) -> Tensor:
    """The attack of adversarial training, and the bare 40-step loop that overheads are told against."""
    x = (inputs + radius * (2 * torch.rand_like(inputs) - 1)).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(module(x), labels), x)[0]
        x = torch.maximum(torch.minimum(x + 2.5 * radius / steps * gradient.sign(), inputs + radius), inputs - radius)
        x = x.clamp(0, 1)
    return x.detach()


def examples(names: list[str], count: int) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Each network with the first ``count`` test examples that all asked networks of its data set get right."""
    modules = {name: trained(name) for name in names}
    found = {}
    for family in (["digits"], ["mlp", "cnn", "cnn_adv"]):
        here = [n for n in names if n in family]
        if not here:
            continue
        data = digits("test") if family == ["digits"] else mnist("test")
        with torch.no_grad():
            right = torch.stack([modules[n](data.x).argmax(1) == data.labels for n in here]).all(0)
            for n in here:
                share = (modules[n](data.x).argmax(1) == data.labels).double().mean()
                print(f"{n}: clean accuracy {share:.2%}, digest {weights_digest(modules[n])[:12]}", flush=True)
        at = right.nonzero()[:count, 0]
        found |= {n: (modules[n], data.x[at], data.labels[at]) for n in here}
    return found


# ---- peers ----------------------------------------------------------------------------------------------------------------


def peers(p: float) -> Iterator[tuple[str, Callable]]:
    """(name, (model, x, labels) -> x) of what is importable for a norm."""
    sys.path[:0] = [f for f in os.environ.get("PEERS_PATH", "").split(os.pathsep) if f]
    for name in ("torchvision", "torchvision.models", "torchvision.transforms", "visdom"):
        sys.modules.setdefault(name, types.ModuleType(name))  # imported, not used, by the attacks asked here
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]
    yield from adv_lib(p)
    yield from foolbox(p)


def adv_lib(p: float) -> Iterator[tuple[str, Callable]]:
    try:
        from adv_lib.attacks import alma, ddn, fmn, pdgd, pdpgd, sigma_zero, vfga
        from adv_lib.attacks.auto_pgd import minimal_apgd
        from adv_lib.attacks.fast_adaptive_boundary import fab
        from adv_lib.attacks.superdeepfool import sdf
        from adv_lib.attacks.trust_region import tr
    except ImportError as reason:
        print(f"adv-lib left out: {reason}")
        return
    per_class = lambda attack: partial(every_target, attack)
    if p == 2:
        yield "adv-lib DDN100", partial(ddn, steps=100, levels=None)
        yield "adv-lib DDN1000", partial(ddn, steps=1000, levels=None)
        yield "adv-lib DDN_T9x100", per_class(partial(ddn, steps=100, levels=None))
        yield "adv-lib ALMA100", partial(alma, distance="l2", init_lr_distance=0.1, num_steps=100)
        yield "adv-lib ALMA1000", partial(alma, distance="l2", init_lr_distance=0.1, num_steps=1000)
        yield "adv-lib PDGD500", partial(pdgd, num_steps=500)
        yield "adv-lib SuperDeepFool", sdf
        yield "adv-lib TR100", partial(tr, p=2, iter=100)
        yield "adv-lib FAB-T20", partial(fab, norm=2, n_iter=20, targeted_restarts=True)
    if p == inf:
        yield "adv-lib FMN100", partial(fmn, norm=inf, steps=100)
        yield "adv-lib FMN1000", partial(fmn, norm=inf, steps=1000)
        yield "adv-lib FMN_T9x100", per_class(partial(fmn, norm=inf, steps=100))
        yield "adv-lib TR100", partial(tr, p=inf, iter=100)
        yield "adv-lib PDPGD500", partial(pdpgd, norm=inf, num_steps=500)
        yield "adv-lib FAB-T20", partial(fab, norm=inf, n_iter=20, targeted_restarts=True)
        yield (
            "adv-lib APGD-T min 12x30",
            partial(minimal_apgd, norm=inf, max_eps=1, targeted_version=True, n_iter=30, binary_search_steps=12),
        )
    if p == 1:
        yield "adv-lib FMN100", partial(fmn, norm=1, steps=100)
        yield "adv-lib FMN1000", partial(fmn, norm=1, steps=1000)
        yield "adv-lib ALMA100", partial(alma, distance="l1", init_lr_distance=0.5, num_steps=100)
        yield "adv-lib ALMA1000", partial(alma, distance="l1", init_lr_distance=0.5, num_steps=1000)
        yield "adv-lib PDPGD500", partial(pdpgd, norm=1, num_steps=500)
        yield "adv-lib FAB-T20", partial(fab, norm=1, n_iter=20, targeted_restarts=True)
    if p == 0:
        yield "adv-lib FMN100", partial(fmn, norm=0, steps=100)
        yield "adv-lib FMN_T9x100", per_class(partial(fmn, norm=0, steps=100))
        yield "adv-lib sigma_zero100", partial(sigma_zero, num_steps=100)
        yield "adv-lib sigma_zero1000", partial(sigma_zero, num_steps=1000)
        yield "adv-lib VFGA", partial(vfga, targeted=False)


def every_target(attack: Callable, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """One targeted run for every other class; the nearest point is taken by whoever tracks the queries."""
    with torch.no_grad():
        classes = model(x).shape[1]
    last = x
    for step in range(1, classes):
        last = attack(model, x, (labels + step) % classes, targeted=True)
    return last


def foolbox(p: float) -> Iterator[tuple[str, Callable]]:
    try:
        from foolbox import attacks
    except ImportError as reason:
        print(f"foolbox left out: {reason}")
        return
    if p == 2:
        yield "foolbox DDN100", attacks.DDNAttack(steps=100)
        yield "foolbox DeepFool50", attacks.L2DeepFoolAttack(steps=50)
    if p == inf:
        yield "foolbox FMN100", attacks.LInfFMNAttack(steps=100)
    if p == 1:
        yield "foolbox EAD", attacks.EADAttack(binary_search_steps=3, steps=100)


# ---- the table ------------------------------------------------------------------------------------------------------------


def measured(problem: Problem, work: Callable[[], bt.Bracket]) -> tuple[dict, bt.Bracket]:
    """Passes, processor time, its ratio to the bare passes, and the bracket that ``work`` returns."""
    import time

    started = time.process_time()
    with meter.measure() as cost:
        bracket = work()
    took = time.process_time() - started
    forward, backward = cost.forward / len(problem), cost.backward / len(problem)
    bare = passes(problem.network.quiet, problem.x, forward, backward)
    return {"forward": forward, "backward": backward, "seconds": took, "floor": took / bare}, bracket


def peers_of(problem: Problem, network: str, norm: str) -> dict[str, tuple[dict, Tensor]]:
    folder = BUILD / "peers" / f"{network}-{norm}-{len(problem)}"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, attack in peers(NORMS[norm]):
        kept = folder / f"{name.replace(' ', '_')}.json"
        if kept.exists():
            stored = json.loads(kept.read_text())
            found[name] = (stored["cost"], torch.tensor([inf if v is None else v for v in stored["distance"]]).double())
            continue
        try:
            ours = bt.foreign(attack, name=name)
            cost, bracket = measured(problem, partial(bt.radius, problem, ends="upper", attacks=[ours]))
            distance = bracket.upper
        except Exception as reason:
            print(f"{name}: {type(reason).__name__}: {str(reason)[:160]}", flush=True)
            continue
        finite = [v if v < inf else None for v in distance.tolist()]
        kept.write_text(json.dumps({"cost": cost, "distance": finite}))
        found[name] = (cost, distance)
    return found


def excess(distance: Tensor, best: Tensor) -> Tensor:
    """Distance over the best known, minus one; at most 1, may be negative."""
    ratio = torch.where(best > 0, distance / best.clamp_min(1e-300) - 1, torch.where(distance > 0, inf, 0.0))
    return ratio.nan_to_num(nan=1.0, posinf=1.0).clamp_max(1)


def table(network: str, norm: str, problem: Problem, with_peers: bool, with_ours: bool) -> None:
    rows = peers_of(problem, network, norm) if with_peers else {}
    best = torch.stack([d for _, d in rows.values()]).amin(0) if rows else None
    for effort in EFFORTS if with_ours else ():
        cost, bracket = measured(problem, partial(bt.radius, problem, ends="upper", effort=effort))
        rows[f"brittle {effort}"] = cost, bracket.upper
    best = torch.stack([d for _, d in rows.values()]).amin(0) if best is None else best
    print(f"\n### {network}, {norm}: best known of peers: median {best.median():.4g}, mean {best.mean():.4g}\n")
    print("| attack | found | median | mean | excess | fwd + bwd | s | x floor |\n|---|---|---|---|---|---|---|---|")
    order = sorted(rows.items(), key=lambda row: float(excess(row[1][1], best).mean()))
    for name, (cost, distance) in order:
        total = cost["forward"] + cost["backward"]
        found = distance.isfinite()
        print(
            f"| {name} | {found.double().mean():.0%} | {distance.median():.4g} | {distance[found].mean():.4g} | {excess(distance, best).mean():.2%} "
            f"| {total:.0f} | {cost['seconds']:.2f} | {cost['floor']:.2f} |",
            flush=True,
        )


def overhead(network: str, problem: Problem) -> None:
    """40-step PGD with tracking, feasibility and re-measurement, against the bare loop by hand and against bare passes."""
    box = problem.within(bt.Ball(inf, 0.1, low=0, high=1))
    from brittle.attacks.apgd import apgd

    ours = seconds(lambda: apgd(box, steps=40, restarts=1))
    hand = seconds(lambda: pgd(problem.network.quiet, problem.x, problem.labels, 0.1, 40))
    bare = passes(problem.network.quiet, problem.x, 40, 40)
    print(
        f"{network}: 40 gradient steps, apgd {ours / bare:.2f} x bare passes, the loop by hand {hand / bare:.2f}",
        flush=True,
    )


def certified(network: str, norm: str, problem: Problem) -> None:
    """Both ends: median attacked over certified radius, and the processor time that the lower end adds to the attacks of its effort."""
    for effort, most in CERTIFIED.items():
        part = problem if network == "digits" else problem.take(torch.arange(min(most, len(problem))))
        attacked, _ = measured(part, partial(bt.radius, part, ends="upper", effort=effort))
        cost, bracket = measured(part, partial(bt.radius, part, effort=effort))
        ratio = bracket.upper / bracket.lower
        closed = (ratio <= 1.001).double().mean()
        print(
            f"| {network}, {norm} | {effort} | {len(part)} | {bracket.lower.median():.4g} | {ratio.median():.3f} | {ratio.max():.3f} | {closed:.1%} "
            f"| {1000 * (cost['seconds'] - attacked['seconds']) / len(part):.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Upper ends of brittle and of its peers in one run.")
    parser.add_argument("--networks", nargs="+", default=["digits", "mlp", "cnn", "cnn_adv"])
    parser.add_argument("--norms", nargs="+", default=list(NORMS))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--certified", action="store_true", help="the brackets alone, and what their lower ends cost")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for network, (module, x, labels) in examples(asked.networks, asked.count).items():
        problem = Problem(module, x, labels, bt.Ball(2, 1.0, low=0, high=1))
        if asked.certified:
            print(
                "\n| network, norm | effort | examples | median certified | attacked / certified, median | largest | closed to .1 % | ms an example |\n|---|---|---|---|---|---|---|---|"
            )
            for norm in asked.norms:
                certified(network, norm, problem.within(bt.Ball(NORMS[norm], 1.0, low=0, high=1)))
            continue
        if not asked.peers_only:
            overhead(network, problem)
        for norm in asked.norms:
            part = problem.within(bt.Ball(NORMS[norm], 1.0, low=0, high=1))
            table(network, norm, part, not asked.no_peers, not asked.peers_only)


if __name__ == "__main__":
    main()
