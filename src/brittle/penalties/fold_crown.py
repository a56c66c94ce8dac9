"""Training on linear relaxation over inputs and weights at once: the cross-entropy of margins that folded backward planes certify."""

from math import inf

import torch
from torch import Tensor

from brittle import backward, ops
from brittle.about import About
from brittle.errors import NotCertified
from brittle.penalties import _bounds
from brittle.penalties._live import at_rest
from brittle.planes import Planes, planes
from brittle.problem import Problem
from brittle.relaxation import pull_back

ABOUT = About(
    promise="an upper bound of the worst cross-entropy over the joint region, up to rounding: tighter than intervals on networks that were not trained on them",
    reference="Zhang et al., Towards stable and efficient training of verifiably robust neural networks, ICLR 2020, arXiv 1906.06316 (CROWN-IBP), "
    "with the worst change of the weights folded into the backward rows: our derivation",
    norms=(1, 2, inf),
    cost="about 3 forward passes, and as many backward passes as the specification has rows",
)


def fold_crown(problem: Problem, *, seed: int = 0, intervals: bool = True) -> Tensor:
    """``mean_i log(1 + sum_j exp(-m_ij))`` with margins from one backward pass of linear relaxation through moving weights.

    Intervals of the units come from interval propagation over the joint region (not from backward passes of their own, which would cost one for each unit);
    the merged rows are then pulled back to the input. At a layer ``(W + dW) h`` a row L pays exactly ``|L| E |h|`` for its worst change; at a unit it takes the plane
    below (0 or 1, whichever leaves less) or the chord above; at the input ball and range are exact.

    intervals  take the larger of this and ``joint_ibp``'s margin, row by row: tighter on either kind of network; False gives the relaxation alone

    Activations that are piecewise linear, max pooling, and every affine operation that bounds know. Schedules as for ``joint_ibp``: ramp the weight and the radius.

    Errors: InputError without a region; NotCertified for smooth activations, p = 0, and operations that the bounds do not know.

    >>> from math import e, log
    >>> from brittle import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> region = {"x": Ball(p=inf, radius=1 / 7, low=0, high=1), "weight": Ball(p=inf, radius=0.1)}  # (3 - 0.2) 6 / 7 - (4 + 0.2) / 7
    >>> value = fold_crown(Problem(linear, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), region))
    >>> abs(float(value.detach()) - log(1 + e**-1.8)) < 1e-6
    True
    """
    with at_rest(problem):
        state = _bounds.live_state(problem, "fold_crown")
        relaxed: dict[str, Planes] = {}

        def step(state, node) -> None:
            if ops.is_nonlinear(node):
                if node.op not in ops.TAPPED and backward.activation(state, node).bend is not None:
                    raise NotCertified(f"operation {node.op} in training: use joint_ibp")
                relaxed[node.name] = planes(state, node)
            _bounds.forward_intervals(state, node)

        _bounds.walk(state, step)
        rows, offsets, _ = backward.specification(problem, state)
        lower = _bounds.over_balls(problem, state, pull_back(state, state.graph.output, rows, relaxed)) + offsets
        if intervals:
            lower = torch.maximum(lower, _bounds.over_boxes(state, _bounds.merged_rows(problem, state)[0]) + offsets)
        return _bounds.mean_cross_entropy(problem, lower, 3)
