"""Certified Lipschitz constants of the rows of a specification, on all inputs or where units are known to stay in intervals.

With middle gates M, deviations |D| <= R, and ``a_k`` the row that arrives at layer k through the middle of all later gates,

    gradient = a_0  +  sum_k a_k D_k J_k  +  sum_(j<k) a_k D_k A_kj D_j (Jacobian of layer j),

J_k and A_kj the Jacobians of the input of layer k through middle gates, by the input of the network and by the output of layer j. The
first two parts are linear in all unknown slopes at once, and bounded together: with V the stacked rows ``a_0, a_k R_k J_k``,

    max over |theta_i| <= 1 of |theta V|  <=  sqrt(sum T * lambda_max(T^-1/2 V V^T T^-1/2))      for every positive diagonal T,

the dual of the semidefinite relaxation of that maximum (Goemans and Williamson, 1995, for the idea), at T = |V V^T theta| of a local maximum theta. The last
part is bounded by products of spectral norms, with weights on the units between the factors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, inf, prod

import torch
from torch import Tensor

from brittle import intervals, ops
from brittle.gates import Gates, Walk, gates, sizes_of, walk
from brittle.graph import Graph
from brittle.intervals import TINY, UNIT, State, gamma
from brittle.problem import Problem

# Any number is valid (folklore): steps to a local maximum, of the power method, of the weights; factors on an estimate until one is proved.
ASCENTS, POWERS, ROUNDS = 12, 12, 4
TRIED = (1.001, 1.01, 1.04, 1.1, 1.3, 2.0, 4.0)
Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _Layers:
    """One example per entry of N; layers in graph order, U_k gates with an unknown slope in layer k.

    radius   name -> (N, U_k); units name -> (U_k,) which gates
    jacobian name -> (U_k, N, D) of the gates' inputs by the leaf, through middle gates; loss (U_k, N) its rounding
    between  (k, j) -> (U_k, N, U_j) of the gates' inputs by the outputs of layer j; lost (U_k, N)
    """

    units: dict[str, Tensor]
    radius: dict[str, Tensor]
    jacobian: dict[str, Tensor]
    loss: dict[str, Tensor]
    between: dict[tuple[str, str], Tensor]
    lost: dict[tuple[str, str], Tensor]


def everywhere(problem: Problem, graph: Graph) -> State:
    """A state that knows nothing of any value: slopes hold on all inputs."""
    state = intervals.start(problem, graph)
    for node in graph.nodes:
        if node.varies:
            state.low[node.name] = torch.full(
                (state.count, *node.shape), -inf, dtype=torch.float64, device=problem.device
            )
            state.high[node.name] = -state.low[node.name]
    return state


def lipschitz(
    state: State, rows: Tensor, leaf: str, *, gather: Gather | None = None, stretch: float = 1.0, max_units: int = 600
) -> Tensor:
    """(R, N) upper bounds of the l2 length of the gradient of rows (R, N or 1, C) of the output by the input node ``leaf``.

    Guarantee: holds for every choice of slopes that the intervals in ``state`` allow, hence for the network on the set where these hold, and for
    the continuation of the network that keeps every unit on its slopes outside. Float64, rounded outwards.

    state      with intervals of the inputs of all nonlinear nodes; :func:`everywhere` for a constant that holds on all inputs
    gather     a linear map of rows (..., D) to (..., D'), of norm at most ``stretch``: for noise ``A g`` the map ``w -> A^T w``
    max_units  with more unknown slopes than this the product of the layers' spectral norms is taken, which is much larger

    Linear networks: the exact length, up to rounding. One hidden layer: often the exact maximum over slopes.

    >>> from brittle.graph import graph_of
    >>> net = torch.nn.Linear(2, 1)
    >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> problem = Problem(net, torch.zeros(1, 2), torch.tensor([1]))
    >>> state = everywhere(problem, graph_of(problem))
    >>> round(float(lipschitz(state, torch.ones(1, 1, 1, dtype=torch.float64), "x")), 6)
    5.0
    """
    gather = gather or (lambda w: w)
    gated = {n.name: gates(state, n) for n in state.graph.nodes if ops.is_nonlinear(n)}
    sizes = sizes_of(state)
    free = sum(int(g.free.any(0).sum()) for g in gated.values())
    if free > max_units:
        return _product(state, rows, gated, sizes, leaf) * stretch * (1 + 4 * UNIT)
    top = walk(state, state.graph.output, rows, gated, sizes, leaf)
    layers = _layers(state, gated, sizes, leaf, gather, stretch)
    return _linear(top, layers, gather, stretch) + _curved(top, layers)


def _layers(
    state: State, gated: dict[str, Gates], sizes: dict[str, float], leaf: str, gather: Gather, stretch: float
) -> _Layers:
    found = _Layers({}, {}, {}, {}, {}, {})
    for node in state.graph.nodes:
        if node.name not in gated:
            continue
        gate, source = gated[node.name], node.sources[0]
        units = gate.free.any(0).nonzero()[:, 0]
        if not len(units):
            continue
        shape = state.known[source].shape
        one = torch.zeros(len(units), 1, prod(shape), dtype=torch.float64, device=gate.middle.device)
        one[torch.arange(len(units)), 0, gate.into[units]] = 1
        down = walk(state, source, one.reshape(len(units), 1, *shape), gated, sizes, leaf)
        found.units[node.name] = units
        found.radius[node.name] = gate.radius[:, units]
        found.jacobian[node.name], found.loss[node.name] = _gathered(down, gather, stretch)
        for below, at in found.units.items():
            if below in down.arrived:
                found.between[node.name, below] = down.arrived[below][..., at]
                found.lost[node.name, below] = down.error[below]
    return found


def _gathered(down: Walk, gather: Gather, stretch: float) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(down.leaf, dim=-1)
    return gather(down.leaf), stretch * (down.error[""] + gamma(down.leaf.shape[-1]) * size) * (1 + 2.0**-40) + TINY


def _linear(top: Walk, layers: _Layers, gather: Gather, stretch: float) -> Tensor:
    """The middle row and all terms with one unknown slope, together."""
    middle, lost = _gathered(top, gather, stretch)
    names = list(layers.units)
    if not names:
        return torch.linalg.vector_norm(middle, dim=-1) * (1 + gamma(middle.shape[-1])) + lost
    weight = torch.cat([top.arrived[k][..., layers.units[k]] * layers.radius[k] for k in names], -1)  # (R, N, U)
    basis = torch.cat([layers.jacobian[k] for k in names]).transpose(0, 1)  # (N, U, D)
    slack = torch.cat([layers.loss[k] for k in names]).T  # (N, U)
    gram = basis @ basis.transpose(1, 2)
    cross = torch.einsum("rnd,nud->rnu", middle, basis) * weight
    inner = weight[..., :, None] * gram * weight[..., None, :]
    own = middle.square().sum(-1)[..., None, None]
    whole = torch.cat([torch.cat([own, cross[..., None, :]], -1), torch.cat([cross[..., None], inner], -1)], -2)
    length = cube(whole, basis.shape[-1])
    lengths = torch.linalg.vector_norm(basis, dim=-1) + slack
    for k in names:  # rounding of the arriving rows themselves
        size = torch.linalg.vector_norm(layers.radius[k].T[..., None] * layers.jacobian[k], dim=(0, 2))
        lost = lost + top.error[k] * size * (1 + 2.0**-30)
    return length + lost + (weight.abs() * (slack + 4 * UNIT * lengths)).sum(-1) * (1 + 2.0**-30)


def cube(gram: Tensor, dimension: int) -> Tensor:
    """At least ``max |theta V|`` over the cube, from ``V V^T`` (..., U, U) of rows of the given dimension."""
    up = torch.ones((), dtype=gram.dtype, device=gram.device)
    theta = torch.where(gram[..., 0, :] < 0, -up, up)
    for _ in range(ASCENTS):
        theta = torch.where((gram @ theta[..., None])[..., 0] < 0, -up, up)
    pull = (gram @ theta[..., None])[..., 0]
    reached = (theta * pull).sum(-1, keepdim=True).clamp_min(0).sqrt()
    weight = torch.maximum(pull.abs(), 0.1 * reached * gram.diagonal(dim1=-2, dim2=-1).sqrt())
    best, value = weight, torch.full_like(reached, inf)
    for _ in range(ROUNDS):  # the best T is in proportion to the squares of the leading eigenvector
        weight = weight + 1e-12 * weight.amax(-1, keepdim=True) + 1e-200
        most, vector = _leading(_balanced(gram, weight))
        total = weight.sum(-1, keepdim=True)
        here = most[..., None] * total
        best, value = torch.where(here < value, weight, best), torch.minimum(here, value)
        weight = 0.6 * weight + 0.4 * total * vector.square()
    scaled = _balanced(gram, best)
    rounding = gamma(dimension + 8) * scaled.diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((largest(scaled) + rounding) * best.sum(-1)).sqrt() * (1 + gamma(best.shape[-1] + 4))


def _balanced(gram: Tensor, weight: Tensor) -> Tensor:
    return gram / weight.sqrt()[..., :, None] / weight.sqrt()[..., None, :]


def _curved(top: Walk, layers: _Layers) -> Tensor:
    """All terms with two unknown slopes or more: weights of units, norms between layers, norms down to the leaf."""
    names = list(layers.units)
    total = next(iter(top.error.values())) * 0
    weight, gain, down = _weights(top, layers), {}, {}
    for k, j in layers.between:
        block = weight[k][..., None] * layers.between[k, j].transpose(0, 1) * (layers.radius[j] / weight[j])[:, None]
        slack = (weight[k] * layers.lost[k, j].T).square().sum(1).sqrt() * (layers.radius[j] / weight[j]).amax(1)
        gain[k, j] = spectral(block) + slack * (1 + 2.0**-30)
    for k in names:
        slack = (weight[k] * layers.loss[k].T).square().sum(1).sqrt() * (1 + 2.0**-30)
        down[k] = spectral(weight[k][..., None] * layers.jacobian[k].transpose(0, 1)) + slack
        down[k] = down[k] + sum((gain[k, j] * down[j] for j in names if (k, j) in gain), torch.zeros_like(down[k]))
    for k in names:
        below = [gain[k, j] * down[j] for j in names if (k, j) in gain]
        if below:
            ratio = layers.radius[k] / weight[k]
            arriving = torch.linalg.vector_norm(top.arrived[k][..., layers.units[k]] * ratio, dim=-1)
            total = total + (arriving + top.error[k] * ratio.amax(1)) * sum(below)
    return total * (1 + gamma(64 + len(names)))


def _weights(top: Walk, layers: _Layers) -> dict[str, Tensor]:
    """(N, U_k) positive: the root of how much of the rows passes through a unit. Any choice is valid, this one is good."""
    passing: dict[str, Tensor] = {}
    for k in reversed(list(layers.units)):
        own = (top.arrived[k][..., layers.units[k]].abs()).mean(0) * layers.radius[k]
        for above, share in passing.items():
            if (above, k) in layers.between:
                block = layers.between[above, k].abs() * layers.radius[k]
                own = own + torch.einsum("nu,unv->nv", share, block)
        passing[k] = own
    floor = lambda w: w + 1e-6 * w.amax(1, keepdim=True) + 1e-100
    return {k: floor(w).sqrt() for k, w in passing.items()}


def _product(state: State, rows: Tensor, gated: dict[str, Gates], sizes: dict[str, float], leaf: str) -> Tensor:
    """Norms of layers multiplied, from the leaf on; the specification's rows by their lengths."""
    norm: dict[str, Tensor] = {}
    for node in state.graph.nodes:
        if not node.varies:
            continue
        moving = [norm[m] for m in state.moving(node)] if node.op != "input" else []
        if node.op == "input" or not moving:
            norm[node.name] = torch.full(
                (state.count,), float(node.name == leaf), dtype=torch.float64, device=rows.device
            )
        elif ops.is_nonlinear(node):
            gate = gated[node.name]
            steep = (gate.middle.abs() + gate.radius).amax(1)
            shared = int(gate.into.bincount().max()) if node.op in ops.POOLS else 1
            norm[node.name] = moving[0] * steep * shared**0.5 * (1 + 4 * UNIT)
        else:
            size = min(sizes[node.name], _layer_norm(state, node.name))
            together = torch.stack(moving).square().sum(0).sqrt()
            norm[node.name] = size * together * (1 + gamma(8))
    return (
        torch.linalg.vector_norm(rows.flatten(2), dim=-1)
        * norm[state.graph.output]
        * (1 + gamma(rows[0, 0].numel() + 4))
    )


def _layer_norm(state: State, name: str) -> float:
    """The spectral norm of a linear layer, a bound of that of a convolution; inf where only absolute sums are known.

    A convolution is a matrix (channels out, channels in * kernel) applied to every patch, and a pixel is in at most prod(ceil(kernel / s))
    patches, s the stride over its greatest common divisor with the dilation; or the matrix (channels out * kernel, channels in) at every pixel, whose products are summed by at most prod(kernel) to an output.
    """
    node = state.known[name]
    if node.op not in ("linear", "conv1d", "conv2d", "conv3d") or len(state.moving(node)) != 1:
        return inf
    weight = ops.arguments_of(node, state.constants | {m: state.low[m] for m in state.moving(node)}, state.count)[
        "weight"
    ]
    assert isinstance(weight, Tensor)
    if node.op == "linear":
        return float(spectral(weight[None])[0])
    groups, kernel = int(node.arguments["groups"]), weight.shape[2:]  # type: ignore[arg-type]
    strides, dilations = (_each(node.arguments[name], len(kernel)) for name in ("stride", "dilation"))
    patches = prod(-(-k // (s // gcd(s, d))) for k, s, d in zip(kernel, strides, dilations, strict=True))
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    wide = spectral(parts.flatten(2)).max() * patches**0.5
    tall = spectral(parts.movedim(2, -1).flatten(1, -2)).max() * prod(kernel) ** 0.5
    return float(torch.minimum(wide, tall)) * (1 + 8 * UNIT)


def _each(value: object, dimensions: int) -> list[int]:
    """An option of a convolution, one number for every dimension."""
    numbers = [int(n) for n in (value if isinstance(value, (tuple, list)) else (value,))]  # type: ignore[arg-type]
    return numbers * (dimensions // len(numbers))


def spectral(matrix: Tensor) -> Tensor:
    """(...) upper bounds of the spectral norms of matrices (..., m, n): the root of :func:`largest` of the smaller Gram matrix.

    >>> round(float(spectral(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64))), 2)
    4.0
    """
    m, n = matrix.shape[-2:]
    gram = matrix @ matrix.mT if m <= n else matrix.mT @ matrix
    rounding = gamma(max(m, n) + 4) * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (largest(gram) + rounding).sqrt() * (1 + 4 * UNIT)


def largest(gram: Tensor) -> Tensor:
    """(...) upper bounds of the largest eigenvalues of symmetric positive semidefinite matrices (..., n, n).

    An estimate by the power method, times 1.001 or more, is accepted where ``c I - gram`` has a Cholesky factorisation in floating point with
    room for its rounding: then it is positive definite (Rump, BIT 46 (2006), 433-452). Else the largest row sum.
    """
    n = gram.shape[-1]
    flat = gram.reshape(-1, n, n)
    sums = flat.abs().sum(-1).amax(-1) * (1 + gamma(n))
    estimate, _ = _leading(flat)
    best, open_ = sums.clone(), torch.isfinite(sums) & (sums > 0)
    for factor in TRIED:
        at = open_.nonzero()[:, 0]
        if not len(at):
            break
        most = estimate[at] * factor
        room = most - 4 * (n + 8) * UNIT * n * most
        shifted = room[:, None, None] * torch.eye(n, dtype=gram.dtype, device=gram.device) - flat[at]
        proved = torch.linalg.cholesky_ex(shifted).info == 0
        best[at[proved]] = torch.minimum(most, sums[at])[proved]
        open_[at[proved]] = False
    return best.reshape(gram.shape[:-2])


def _leading(gram: Tensor) -> tuple[Tensor, Tensor]:
    """An estimate (...) of the largest eigenvalue of matrices (..., n, n), and of its vector (..., n): the power method from four starts."""
    n = gram.shape[-1]
    start = torch.outer(torch.arange(n, dtype=gram.dtype), torch.arange(4, dtype=gram.dtype)).mul(2.399963).cos()
    vector = gram.diagonal(dim1=-2, dim2=-1).sqrt()[..., None] * start.to(gram.device) + 1e-300
    for _ in range(POWERS):
        vector = gram @ vector
        vector = vector / vector.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    values = (vector * (gram @ vector)).sum(-2)
    most, which = values.max(-1)
    return most, vector.gather(-1, which[..., None, None].expand(*vector.shape[:-1], 1))[..., 0]
