"""Adversarial training: the loss at the worst point that a few projected gradient steps find in the region."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import softplus

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._ascent import logits_at, worst_changes
from brittle.penalties._live import at_rest, moving
from brittle.penalties._losses import Loss, mean_loss
from brittle.penalties._weights import present
from brittle.problem import Problem
from brittle.region import Ball

ABOUT = About(
    promise="the loss at attacked points of the region: a lower bound of the worst loss there, so no certificate",
    reference="Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018; "
    'form="trades": Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019',
    norms=(1, 2, inf),
    cost="steps + 1 forward and backward passes (form='trades': one forward and backward more)",
)


def adversarial(
    problem: Problem,
    *,
    seed: int = 0,
    radius: float | None = None,
    p: float | None = None,
    steps: int = 7,
    form: str = "loss",
    loss: Loss = "cross-entropy",
) -> Tensor:
    """``mean_i loss(v_i)`` where ``v_i`` is a point of the region that ``steps`` steps of projected ascent from a random start reach.

    The inner search climbs the cross-entropy of the rows, ``log(1 + sum exp(-row))``, on the network at rest (it leaves no trace in running
    statistics), with steps of ``2.5 radius / steps`` in the steepest direction of each leaf's norm; the outer loss is taken in
    training mode at that point, held fixed (Danskin). Any leaf may move: inputs, parameters, or both at once (joint adversarial training). A parameter
    with ``shared=True`` has one change for the whole batch, which climbs the sum of the losses and costs no more than an input: what a corrupted device does.
    Without it each example has its own change and its own copy of the weights, the reading that certificates cover, at many times the memory.
    Relative balls follow the weights as they are trained.

    form="trades" returns ``KL(softmax f(x) || softmax f(v))`` instead, climbed and minimised: a term beside the clean loss, usually
    with a weight of 1 to 6. Pure adversarial training is form="loss" with ``clean_weight=0`` of the training loop.

    radius, p   replace those of the inputs' balls (``problem.scale`` still multiplies); valid ranges stay
    steps       steps of the search; 0 takes the random start
    loss        of the outer point, as for the training loop, which passes its own (form="loss")

    Errors: InputError where neither the problem nor the options say how far, and for p = 0.

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = Problem(linear, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=torch.inf, radius=3 / 7))
    >>> round(float(adversarial(problem).detach()), 4)  # the margin is 3 - 3/7 x 7 = 0: the loss is log 2
    0.6931
    >>> device = problem.within({"weight": Ball(p=torch.inf, radius=1.5, shared=True)})
    >>> round(float(adversarial(device).detach()), 4)  # (3 - 1.5) - (0 + 1.5) = 0
    0.6931
    """
    if form not in ("loss", "trades") or steps < 0:
        raise InputError("adversarial", 'form "loss" or "trades", steps >= 0', (form, steps), "correct them")
    problem = present(_ball(problem, p, radius))
    if form == "loss":
        changes = worst_changes(problem, lambda rows: softplus(torch.logsumexp(-rows, 1)), seed, steps)
        meter.count(backward=len(problem))
        return mean_loss(loss, logits_at(problem, changes), problem.labels)
    with at_rest(problem), torch.no_grad():
        clean = problem.rows()
    changes = worst_changes(problem, lambda rows: _divergence(clean, rows), seed, steps)
    meter.count(backward=2 * len(problem))
    return _divergence(problem.rows(), problem.spec.rows(logits_at(problem, changes), problem.labels)).mean()


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """(N,) KL of the softmax at the first rows from that at the second; rows hold all that a softmax does: the label's logit is 0."""
    whole = lambda rows: torch.log_softmax(torch.cat([torch.zeros_like(rows[:, :1]), -rows], 1), 1)
    a, b = whole(first), whole(second)
    return (a.exp() * (a - b)).sum(1)


def _ball(problem: Problem, p: float | None, radius: float | None) -> Problem:
    """The problem with p and radius of its inputs' balls replaced where an option says so."""
    region: Mapping[str, Ball] = problem.region
    if p is not None or radius is not None:
        region = {**region, **{leaf: _changed(region.get(leaf), p, radius) for leaf in moving(problem)}}
    if not region or any(ball.p == 0 for ball in region.values()):
        raise InputError(
            "adversarial", "how far the input moves, for p of 1, 2 or inf", region or "nothing", "give radius= and p="
        )
    return replace(problem, region=region)


def _changed(ball: Ball | None, p: float | None, radius: float | None) -> Ball:
    if radius is None and ball is None:
        raise InputError("adversarial", "a radius", "p alone", "give radius= too")
    ball = ball or Ball(2, 0.0)
    return replace(ball, p=ball.p if p is None else p, radius=ball.radius if radius is None else radius)
