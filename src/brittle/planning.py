"""The plan of an audit: what was asked, reduced to digests and plain values, and checked before anything is written."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import util
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor, nn

import brittle
from brittle.digest import tensor_digest, text_digest, weights_digest
from brittle.discovery import EFFORTS, method, methods
from brittle.errors import InputError
from brittle.laws import Law, as_laws
from brittle.network import Network
from brittle.records import Plan, check_name, plain
from brittle.region import Ball, Region, as_region
from brittle.smoothing import Smoothed
from brittle.spec import Specification

OPAQUE = ("torch", "builtins", "functools", "types")  # known by name: their versions are part of the plan
CODE_FAMILIES = ("attacks", "bounds", "noise", "checks")  # whatever of these runs at an effort is part of the plan


def named_models(module: Callable | Mapping[str, Callable]) -> dict[str, Network]:
    """One model as {"model": it}, several by their names; each held without ever being changed."""
    models = dict(module) if isinstance(module, Mapping) else {"model": module}
    if not models:
        raise InputError("module", "a model, or a mapping from names to models", "an empty mapping", "name one model")
    return {check_name("model name", name): Network(value) for name, value in models.items()}


def named_regions(regions: Mapping[str, Ball | Region]) -> dict[str, dict[str, Ball]]:
    """Every region as balls by leaf."""
    if not isinstance(regions, Mapping):
        do = 'name it: {"linf": bt.Ball(p=inf, radius=8 / 255, low=0, high=1)}'
        raise InputError("regions", "a mapping from names to regions", type(regions).__name__, do)
    leaves = ("x" in regions and len(regions) > 1) or any(set("*?[") & set(str(name)) for name in regions)
    if leaves and all(isinstance(ball, Ball) for ball in regions.values()):
        do = 'give the region a name: {"joint": {"x": bt.Ball(...), "*.weight": bt.Ball(...)}}'
        raise InputError(
            "regions", "a mapping from names to regions", f"one region, of the leaves {', '.join(regions)}", do
        )
    return {check_name("region name", name): as_region(region) for name, region in regions.items()}


def named_laws(laws: Mapping[str, Law | Mapping[str, Law]]) -> dict[str, dict[str, Law]]:
    """Every law as laws by leaf."""
    return {check_name("law name", name): as_laws(law) for name, law in laws.items()}


def make_plan(
    models: Mapping[str, Network],
    x: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    regions: Mapping[str, Region],
    laws: Mapping[str, Mapping[str, Law]],
    spec: Specification | None,
    *,
    effort: str,
    seed: int,
    chunk: int,
    level: float,
    diagnostics: Sequence[str] | None,
    checks: bool,
    smoothed: Mapping[str, Smoothed] | None = None,
) -> Plan:
    """Everything that can change a number, see :class:`brittle.records.Plan`. Runs no model."""
    smoothed = smoothed or {}
    _check(regions, laws, smoothed, effort, chunk, level)
    chosen = diagnosing(diagnostics, effort)
    inputs = {"x": x} if isinstance(x, Tensor) else {f"x.{name}": value for name, value in x.items()}
    facts = {
        "models": {name: _model_facts(network.original) for name, network in models.items()},
        "data": {
            "count": len(labels),
            "device": next(iter(inputs.values())).device.type,
            "inputs": {
                leaf: {"shape": list(v.shape[1:]), "dtype": str(v.dtype), "digest": tensor_digest(v)}
                for leaf, v in inputs.items()
            },
            "labels": tensor_digest(labels),
        },
        "regions": {name: {leaf: ball.facts() for leaf, ball in r.items()} for name, r in regions.items()},
        "laws": {name: {leaf: law.facts() for leaf, law in by.items()} for name, by in laws.items()},
        "specification": {"specification": "default"} if spec is None else spec.facts(),
        "effort": effort,
        "seed": int(seed),
        "chunk": int(chunk),
        "level": float(level),
        "methods": _methods(effort, checks) + [_method_facts("diagnostics", name) for name in chosen],
        "diagnostics": list(chosen),
        "checks": bool(checks),
        "brittle": brittle.__version__,
        "torch": torch.__version__,
        "smoothed": {name: asked.facts() for name, asked in smoothed.items()},
    }
    return Plan.of(plain(facts))  # type: ignore[arg-type]


def diagnosing(diagnostics: Sequence[str] | None, effort: str) -> tuple[str, ...]:
    """The diagnostics of an audit: those named, else all that run by themselves at this effort."""
    if diagnostics is None:
        return tuple(m.name for m in methods("diagnostics") if _runs(m.about.effort, effort))
    if isinstance(diagnostics, str):
        raise InputError("diagnostics", "a list of names", repr(diagnostics), f"write [{diagnostics!r}]")
    return tuple(method("diagnostics", name).name for name in dict.fromkeys(diagnostics))


def code_digest(module: object) -> str:
    """SHA-256 over what a model is besides its weights: structure, plain settings, hooks, source of what is not torch's own.

    >>> code_digest(nn.Conv2d(1, 1, 3, stride=1)) == code_digest(nn.Conv2d(1, 1, 3, stride=2))
    False
    """
    return text_digest(_module(module, {}) if isinstance(module, nn.Module) else _identity(module, {}))


def _check(regions: Mapping, laws: Mapping, smoothed: Mapping, effort: str, chunk: int, level: float) -> None:
    if not regions and not laws and not smoothed:
        raise InputError("audit", "at least one region or law", "none", 'pass regions={"l2": bt.Ball(p=2, radius=1.0)}')
    names = [*regions, *laws, *smoothed]
    both = sorted({name for name in names if names.count(name) > 1})
    if both:
        raise InputError(
            "names", "different names for regions, laws and smoothed models", f"{both[0]!r} twice", "rename one of them"
        )
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), repr(effort), "choose one of these")
    if int(chunk) != chunk or chunk < 1:
        raise InputError("chunk", "a whole number of examples >= 1", chunk, "25 is a good choice")
    if not 0 < level < 1:
        raise InputError("level", "a confidence between 0 and 1", level, "0.95 is usual")


def _model_facts(module: object) -> dict[str, object]:
    parameters = module.parameters() if isinstance(module, nn.Module) else []
    return {
        "class": type(module).__qualname__ if isinstance(module, nn.Module) else _name(module),
        "parameters": sum(p.numel() for p in parameters),
        "weights": weights_digest(module),
        "code": code_digest(module),
    }


def _methods(effort: str, checks: bool) -> list[dict[str, str]]:
    return [
        _method_facts(family, m.name)
        for family in CODE_FAMILIES
        for m in methods(family)
        if (checks if family == "checks" else _runs(m.about.effort, effort))
    ]


def _method_facts(family: str, name: str) -> dict[str, str]:
    """A method's identity includes the digest of its file: two versions of one name are two methods."""
    found = method(family, name)
    spec = util.find_spec(found.module)
    text = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    return {
        "family": family,
        "name": name,
        "effort": found.about.effort,
        "source": found.source,
        "code": text_digest(text),
    }


def _runs(least: str, effort: str) -> bool:
    return bool(least) and EFFORTS.index(least) <= EFFORTS.index(effort)


def _is_setting(name: str, value: object) -> bool:
    """Attributes that a constructor may have set (a slope, a temperature, a function), and the mode, which the checks judge."""
    simple = isinstance(value, (bool, int, float, str, tuple, type(None))) or inspect.isroutine(value)
    return simple and not name.startswith("_")


def _module(module: nn.Module, seen: dict[int, object]) -> str:
    lines = [re.sub(r" at 0x[0-9a-f]+", "", str(module))]
    for name, child in module.named_modules():
        seen[id(child)] = child
        hooks = [*child._forward_pre_hooks.values(), *child._forward_hooks.values()]
        settings = [f"{k}={_identity(v, seen)}" for k, v in sorted(vars(child).items()) if _is_setting(k, v)]
        lines += [name, _source(type(child)), *settings, *(_identity(h, seen) for h in hooks)]
    return "\n".join(lines)


def _identity(value: object, seen: dict[int, object]) -> str:
    """What a value contributes to a computation, as far as it can be read: numbers, tensors, source, enclosed values."""
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return repr(value)
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if id(value) in seen:
        return "again"
    seen[id(value)] = value  # held, so that its id stays its own
    if isinstance(value, nn.Module):
        return f"{weights_digest(value)} {_module(value, seen)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_identity(v, seen) for v in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_identity(v, seen)}' for k, v in value.items())}}}"
    return " ".join([_name(value), _source(value), *(_identity(v, seen) for v in _parts(value))])


def _parts(value: object) -> list[object]:
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        cells = [c.cell_contents for c in value.__closure__ or ()]
        return [value.__defaults__, value.__kwdefaults__, cells]
    ours = str(type(value).__module__).split(".")[0] in OPAQUE
    return [] if isinstance(value, type) or ours else [getattr(value, "__dict__", {})]


def _source(value: object) -> str:
    """Source text; torch's own classes are known by name, since the version of torch is part of the plan."""
    holder = value if isinstance(value, type) or inspect.isroutine(value) else type(value)
    if str(getattr(holder, "__module__", "")).split(".")[0] in OPAQUE:
        return _name(holder)
    try:
        return inspect.getsource(holder)
    except (OSError, TypeError):  # typed at a prompt or built at run time
        code = getattr(holder, "__code__", None)
        return _name(holder) if code is None else _bytecode(code)


def _bytecode(code: CodeType) -> str:
    consts = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)
