"""H14: in which precision does the model compute?"""

import torch

from brittle.about import About
from brittle.checks._shared import few, passed, raw_logits
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H14: parameters, outputs, autocast and TF32 are reported where they are shorter than float32",
    reference="dtypes of parameters, inputs and logits; torch.backends",
    answers="before",
    cost="1 forward pass",
)
TITLE = "low precision (H14)"
SHORT = (torch.float16, torch.bfloat16)


def precision(problem: Problem, *, seed: int = 0) -> Finding:
    """Every place where less than float32 is used. Witnesses are confirmed and bounds are computed in float64 all the same."""
    part = few(problem, 2)
    logits = raw_logits(part)
    short = sorted({_name(p.dtype) for p in problem.network.parameters().values() if p.dtype in SHORT})
    places = [f"parameters in {', '.join(short)}"] if short else []
    places += [f"inputs in {_name(v.dtype)}" for v in problem.inputs.values() if v.dtype in SHORT][:1]
    places += [f"logits in {_name(logits.dtype)}"] if logits.dtype in SHORT else []
    places += ["autocast"] if torch.is_autocast_enabled(problem.device.type) else []
    places += ["TF32"] if problem.device.type == "cuda" and _tensor_float() else []
    if places:
        note = (
            f"Less than float32 is used: {'; '.join(places)}; witnesses are confirmed and bounds computed in float64, and what "
            "fails in the short precision alone is marked rounding-only."
        )
        return passed("precision", TITLE, note, value="; ".join(places), threshold="float32", remark=True)
    return passed(
        "precision", TITLE, f"The logits are {_name(logits.dtype)}.", value=_name(logits.dtype), threshold="float32"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor_float() -> bool:
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
