"""What the records say was asked: regions, laws and specification rebuilt from their facts, tensors read from their files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from brittle import laws as noise_laws
from brittle._checker.affine import Unknown
from brittle.records import Common, Part, plain
from brittle.region import Ball, Region, as_region
from brittle.spec import Specification, Targeted, Threshold, TopK, Untargeted
from brittle.store import Run


def region_of(facts: Mapping[str, Mapping], given: Ball | Region | None) -> dict[str, Ball]:
    """The balls of a region; a range that is a tensor must be given and match its digest."""
    if given is not None:
        region = as_region(given)
        if plain({leaf: ball.facts() for leaf, ball in region.items()}) != plain(facts):
            raise Unknown("the region given is not the one recorded")
        return region
    if any("within" in f or "orthogonal_to" in f for f in facts.values()):
        raise Unknown("a subspace, of which the record holds the digest; pass regions={name: region}")
    if any(isinstance(f.get(side), Mapping) for f in facts.values() for side in ("low", "high", "unit")):
        raise Unknown("a range or unit is a tensor, of which the record holds the digest; pass regions={name: region}")
    value = lambda bound: None if bound is None else float(bound)
    return {
        leaf: Ball(
            float(f["p"]), f["radius"], value(f["low"]), value(f["high"]), f["groups"], f["shared"],
            relative=f.get("relative"), unit=value(f.get("unit")),
        )
        for leaf, f in facts.items()
    }  # fmt: skip


def laws_of(
    facts: Mapping[str, Mapping], given: noise_laws.Law | Mapping[str, noise_laws.Law] | None
) -> dict[str, noise_laws.Law]:
    """The laws of a question; a function or a large tensor must be given and match its digest."""
    if given is not None:
        laws = noise_laws.as_laws(given)
        if plain({leaf: law.facts() for leaf, law in laws.items()}) != plain(facts):
            raise Unknown("the law given is not the one recorded")
        return laws
    known = {leaf: noise_laws.from_facts(f) for leaf, f in facts.items()}
    for leaf, law in known.items():
        if law is None:
            what = f"the record holds a digest of the law {facts[leaf]['law']} of {leaf!r}"
            raise Unknown(f"{what}; pass laws={{name: law}}")
    return {leaf: law for leaf, law in known.items() if law is not None}


def specification_of(facts: Mapping[str, Any]) -> Specification | None:
    kind = facts["specification"]
    if kind == "default":
        return None
    if kind == "Targeted":
        return Targeted(torch.as_tensor(facts["target"]) if isinstance(facts["target"], list) else facts["target"])  # type: ignore[arg-type]
    return {
        "Untargeted": lambda: Untargeted(),
        "TopK": lambda: TopK(facts["k"]),
        "Threshold": lambda: Threshold(facts["threshold"]),
    }[kind]()  # type: ignore[arg-type,index]


def tensors_of(run: Run, kind: str, part: Part | Common, prefix: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    tensors = load((run.folder / kind / f"{part.name}.safetensors").read_bytes())
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
