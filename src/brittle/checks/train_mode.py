"""H3: was the module handed over in training mode, and does its forward write to its own buffers?"""

import torch
from torch import Tensor, nn

from brittle.about import About
from brittle.checks._shared import correct, failed, few, interval, passed, raw_logits, share
from brittle.digest import weights_digest
from brittle.network import call, copied
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.results import Finding

ABOUT = About(
    promise="H3: training mode, active dropout and moving buffers are seen, and undone in the copy that is measured",
    reference="torch.nn.Module.train; digests of all buffers before and after a forward pass",
    answers="before",
    cost="3 forward passes, 1 more in training mode",
)
TITLE = "training mode and moving buffers (H3)"
MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU)


def train_mode(problem: Problem, *, seed: int = 0) -> Finding:
    """Modes of the module as given; accuracy in both modes, the training mode on a copy; buffers before and after a forward."""
    part = few(problem)
    original = problem.network.original
    if not isinstance(original, nn.Module):
        return passed(
            "train_mode",
            TITLE,
            "A callable without modes was given; whether it is in evaluation mode is yours to know.",
        )
    quiet = correct(part, raw_logits(part))
    moved = _buffers_move(part)
    active = [name or "the module" for name, m in original.named_modules() if m.training]
    modal = [name for name, m in original.named_modules() if m.training and isinstance(m, MODAL)]
    if active and modal:
        training = _training_accuracy(part, seed)
        if training is not None and interval(training, 0.99)[0] > interval(quiet, 0.99)[1]:
            return _untrained_statistics(share(training), share(quiet))
    if not active and not moved:
        return passed(
            "train_mode",
            TITLE,
            "The module is in evaluation mode and writes to none of its buffers.",
            value="evaluation",
        )
    said = []
    if active:
        said.append(
            f"{len(active)} of its parts {'was' if len(active) == 1 else 'were'} in training mode ({', '.join(modal[:3]) or 'none that behaves differently'}); "
            f"the copy that is measured is in evaluation mode, with accuracy {share(quiet):.2f}"
        )
    if moved:
        said.append(
            "the forward writes to its own buffers, which leaves the logits as they are but only if the other checks say so"
        )
    text = "; ".join(said)
    return passed(
        "train_mode", TITLE, text[0].upper() + text[1:] + ".", value=f"{len(active)} in training mode", remark=True
    )


def _untrained_statistics(training: float, quiet: float) -> Finding:
    return failed(
        "train_mode",
        TITLE,
        "warn",
        f"Accuracy is {training:.2f} in training mode and {quiet:.2f} in evaluation mode.",
        "The statistics of the normalisation layers do not fit the data, so the model in evaluation mode is not the one that "
        "was trained; let it see training data in training mode once more, then call eval().",
        value=f"{quiet:.2f} against {training:.2f}",
        threshold="overlapping exact intervals at level 0.99",
    )


def _buffers_move(part: Problem) -> bool:
    quiet = part.network.quiet
    before = weights_digest(quiet)
    raw_logits(part)
    return before != weights_digest(quiet)


def _training_accuracy(part: Problem, seed: int) -> Tensor | None:
    """Which examples a fresh copy classifies correctly in the modes the user left it in; None where that cannot run."""
    devices = [part.device] if part.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(fold(seed, "train_mode"))
        try:
            return correct(part, call(copied(part.network.original), part.x))
        except Exception:  # batch-norm of one example, and whatever else user code refuses in training mode
            return None
