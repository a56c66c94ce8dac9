"""Tails of rows that are planes over the *outputs of the first layer*: the mean of that layer is known exactly, and concentrates.

A plane over the inputs charges every unit of the first layer its worst value at once. Stop pulling back one layer earlier: on the likely
event a row of the specification is at least

    h(delta) = c + <l, g> + sum_i v_i max(0, z_i + <w_i, g>),    delta = A g, g standard normal,

one term for every kink that a unit may cross, continued to all g. Let d be the unit vector along the middle gradient ``l + sum v_i w_i / 2``. The noise may be
shrunk by any factor k in (0, 1], so that what is proved at one scale holds at every smaller one: ``k g = t d + k g'``, g' normal orthogonal to d. For fixed t

  * the mean of h over g' is at least ``mu(t)``: for v_i > 0 the value at the mean of z_i + <w_i, t d + k g'> (Jensen), for v_i < 0 the mean at k = 1, closed forms;
  * h changes by at most L per unit of g', L from the half-widths ``|v_i| / 2`` of the slopes and the parts of w_i orthogonal to d;
  * by the Gaussian isoperimetric inequality the increasing rearrangement F of h on a standard normal number is L-Lipschitz (Borell 1975, Sudakov and
    Tsirelson 1974), so that with ``F(-c) = 0``: ``mu <= E F <= L E (x + c)_+ = L (c + psi(c))``, psi(c) = phi(c) - c Phi(-c), and hence

        P(h <= 0 | t) <= Phi(-c)    for every c with    c + psi(c) <= mu(t) / L.

The mean over t is a sum over strips, with the least value of mu in each (terms with v_i > 0 are convex in t, a tangent lies below; the others concave, a chord
lies below) and the largest probability of each strip over k. For a linear row L = 0. Derived here; no reference is known to us.
"""

from dataclasses import dataclass
from math import exp, inf, pi, sqrt

import torch
from torch import Tensor

from brittle import backward, ops, tails
from brittle.gates import slope_between
from brittle.graph import Graph, Node
from brittle.laws import Gaussian
from brittle.lipschitz import cube
from brittle.noise import _walls
from brittle.noise._half_spaces import HalfSpaces
from brittle.noise._likely import Likely
from brittle.relaxation import inner, pull_back

REACH, STRIP = 9.5, 0.1  # strips of s, in standard deviations; beyond there is 2e-21
HELD = 2**21  # numbers of a block of (pair, strip, unit)
LOOSE = 2.0**-36  # relative: every rounding of means and slopes together, thousands of times over
WORTH = 1e-4  # of the cost: rows whose plane fails more rarely than that are left alone


@dataclass(frozen=True, eq=False)
class _Rows:
    """h for the rows of a specification (R) and examples (N): Q kinks, directions in g.

    constant (R, N), linear (R, N, D); weight v (R, N, Q), start z (N, Q), direction w (Q, D)
    """

    constant: Tensor
    linear: Tensor
    weight: Tensor
    start: Tensor
    direction: Tensor


def sharpened(found: Likely, law: HalfSpaces, given: Gaussian, failing: Tensor) -> Tensor:
    """(R, N) bounds of the probability that a row is <= 0 on the likely event: ``failing`` (of planes over the inputs) or less."""
    worth = (failing > WORTH * found.cost).nonzero()
    names = first(found.state.graph, law.leaf)
    if not len(worth) or not names:
        return failing
    rows = _over_first_layer(found, law, given, names)
    if rows is None:
        return failing
    better = failing.clone()
    each = max(1, HELD // max(1, rows.weight.shape[2] * int(2 * REACH / STRIP)))
    for r, n in ((part[:, 0], part[:, 1]) for part in worth.split(each)):
        value = _tail(rows.constant[r, n], rows.linear[r, n], rows.weight[r, n], rows.start[n], rows.direction)
        better[r, n] = torch.minimum(better[r, n], value)
    return better


def first(graph: Graph, leaf: str) -> list[str]:
    """Piecewise-linear activations whose input is affine in the leaf; what does not depend on it is constant."""
    behind: set[str] = set()
    found, reached = [], {graph.inputs.get(leaf)}
    for node in graph.nodes:
        if reached.isdisjoint(node.sources):
            continue
        reached.add(node.name)
        late = any(source in behind for source in node.sources)
        if ops.is_nonlinear(node):
            found += [] if late or node.op in ops.TAPPED else [node.name]
            late = True
        if late:
            behind.add(node.name)
    return found


def _over_first_layer(found: Likely, law: HalfSpaces, given: Gaussian, names: list[str]) -> _Rows | None:
    state = found.state
    constant, linear, coefficients = _specified(found, law, names)
    weights, starts, directions = [], [], []
    linear = given.gathered(linear)
    for name in names:
        if name not in coefficients:
            continue
        node = state.known[name]
        function = backward.activation(state, node)
        if function.bend is not None or not function.kinks:
            return None
        gamma_, (start, lost, direction) = coefficients[name].flatten(2), _inputs(found, law, node)
        direction = given.gathered(direction)
        low, high = state.low[node.sources[0]].flatten(1), state.high[node.sources[0]].flatten(1)
        slope, offset, jumps = _pieces(function, low, high, state.low[node.sources[0]])
        steep = slope.abs() + sum(jump.abs() for _, jump in jumps)
        size = gamma_.abs() * (slope.abs() * start.abs() + offset.abs() + steep * lost * (1 + LOOSE))
        constant = constant + (gamma_ * (slope * start + offset)).sum(2)
        constant = constant - (gamma_.abs() * steep * lost).sum(2) - LOOSE * size.sum(2)
        linear = linear + (gamma_ * slope) @ direction
        for kink, jump in jumps:
            weights.append(gamma_ * jump)
            starts.append(start - kink)
            directions.append(direction)
    if not weights:
        return None
    weight, start, direction = torch.cat(weights, 2), torch.cat(starts, 1), torch.cat(directions)
    used = (weight != 0).flatten(0, 1).any(0)
    if not bool(used.any()):
        return None  # no unit may cross a kink: the planes over the inputs are these
    return _Rows(constant, linear, weight[..., used], start[:, used], direction[used])


def _specified(found: Likely, law: HalfSpaces, names: list[str]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The rows as planes over the first layer: constant (R, N), slope by the noise (R, N, D), coefficients by node."""
    state, problem = found.state, found.problem
    rows, offsets, doubt = backward.specification(problem, state)
    pulled = pull_back(state, state.graph.output, rows, found.relaxed, frontier=frozenset(names))
    leaves = {name: leaf for leaf, name in state.graph.inputs.items()}
    base = pulled.constant - pulled.slack
    linear = rows.new_zeros(len(rows), state.count, problem.inputs[law.leaf][0].numel())
    coefficients = {}
    for name, arriving in pulled.coefficients.items():
        base = base - backward.evaluation_loss(state, pulled, name)
        if name not in leaves:
            coefficients[name] = arriving.expand(-1, state.count, *arriving.shape[2:])
            continue
        base = base + inner(arriving, problem.inputs[leaves[name]].detach().double())
        if leaves[name] == law.leaf:
            linear = arriving.flatten(2).expand_as(linear)
    base = backward.settled(base, pulled) + offsets - doubt
    return base - 4 * 2.0**-53 * (base.abs() + offsets.abs() + doubt), linear, coefficients


def _inputs(found: Likely, law: HalfSpaces, node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs of a first-layer node as affine maps: value at the clean point (N, U), its rounding (N, U), slopes (U, D)."""
    state, source = found.state, node.sources[0]
    shape = state.low[source].shape[1:]
    one = torch.eye(shape.numel(), dtype=torch.float64, device=found.problem.device).reshape(-1, 1, *shape)
    low, slope = _walls.pulled_rows(found.problem, state, law, source, one, found.relaxed)
    high, _ = _walls.pulled_rows(found.problem, state, law, source, -one, found.relaxed)
    return ((low - high) / 2).T, (-(low + high) / 2).T.clamp_min(0) * (1 + LOOSE), slope[:, 0]


def _pieces(
    function: ops.Activation, low: Tensor, high: Tensor, shaped: Tensor
) -> tuple[Tensor, Tensor, list[tuple[float, Tensor]]]:
    """``f(z) = slope z + offset + sum of jump * max(0, z - kink)`` on [low, high] (N, U), and its continuation."""
    kinks = sorted(function.kinks)
    slopes = [
        slope_between(function, a, b, shaped).flatten(1) for a, b in zip((-inf, *kinks), (*kinks, inf), strict=True)
    ]
    slope = slopes[0].clone()
    jumps = []
    for kink, before, after in zip(kinks, slopes[:-1], slopes[1:], strict=True):
        slope = torch.where(low >= kink, after, slope)
        jumps.append((kink, torch.where((low < kink) & (kink < high), after - before, 0.0)))
    value = function.value(low.reshape(shaped.shape)).flatten(1)
    return slope, value - slope * low, jumps


def _tail(constant: Tensor, linear: Tensor, weight: Tensor, start: Tensor, direction: Tensor) -> Tensor:
    """(B,) bounds of ``P(h <= 0)``: constant (B,), linear (B, D), weight (B, Q), start (B, Q), direction (Q, D)."""
    middle = linear + (weight / 2) @ direction
    length = torch.linalg.vector_norm(middle, dim=1)
    unit = middle / length.clamp_min(1e-300)[:, None]
    along, size = unit @ direction.T, torch.linalg.vector_norm(direction, dim=1)
    # relative to the sizes that are subtracted: of parallel directions only rounding is left
    cancelled = (direction.shape[1] + 16) * 2.0**-51
    left = (size.square() - along.square()).clamp_min(0) + cancelled * size.square()
    across = left.sqrt()
    gram = direction @ direction.T - along[:, :, None] * along[:, None, :] + torch.diag(cancelled * size.square())
    lipschitz = cube(gram * (weight / 2)[:, :, None] * (weight / 2)[:, None, :], direction.shape[1])
    slack = size * weight.abs()
    lipschitz = (lipschitz.square() + cancelled * slack.sum(1).square()).sqrt() * (1 + LOOSE) + LOOSE * slack.sum(1)
    edges = torch.arange(-REACH, REACH + STRIP / 2, STRIP, dtype=torch.float64, device=weight.device)
    least = _least_means((linear * unit).sum(1), weight, start, along, across, edges) + constant[:, None]
    linear_size = torch.linalg.vector_norm(linear, dim=1)
    scale = constant.abs() + REACH * (linear_size + slack.sum(1)) + (weight * start).abs().sum(1)
    ratio = (least - LOOSE * scale[:, None]) / lipschitz.clamp_min(1e-300)[:, None]
    likely = _beyond_mean(ratio)
    parts, inner = _largest_shares(edges) * likely, edges[1:].abs().minimum(edges[:-1].abs()) < 1
    centre = torch.minimum(
        parts[:, inner].sum(1), likely[:, inner].amax(1)
    )  # all strips there together have at most probability 1
    outside = 2 * torch.exp(tails.log_normal(edges[-1:]))
    return (parts[:, ~inner].sum(1) + centre + outside) * (1 + 2.0**-40)


def _largest_shares(edges: Tensor) -> Tensor:
    """(S,) at least the probability of each strip under a normal number of any standard deviation in (0, 1].

    The density ``phi(t / k) / k`` grows with k while ``k < |t|``: beyond 1 it is largest at 1, within at ``k = |t|``.
    """
    near, far = edges[1:].abs().minimum(edges[:-1].abs()), edges[1:].abs().maximum(edges[:-1].abs())
    tail = torch.exp(tails.log_normal(near))
    beyond = tail - torch.exp(tails.log_normal(far)) + 2e-9 * tail
    within = (far - near) * exp(-0.5) / sqrt(2 * pi) / near.clamp_min(1e-9) * (1 + 1e-9)
    return torch.where(near >= 1, beyond, within.clamp_max(1.0))


def _least_means(linear: Tensor, weight: Tensor, start: Tensor, along: Tensor, across: Tensor, edges: Tensor) -> Tensor:
    """(B, S) at most the least mean of ``h - constant`` in each strip."""
    middles = (edges[1:] + edges[:-1]) / 2
    convex, concave = weight.clamp_min(0), weight.clamp_max(0)
    positive, rate = _mean_positive(start, along, torch.zeros_like(across), middles)
    at, by = (positive * convex[:, None]).sum(2), (rate * convex[:, None]).sum(2)
    chord = (_mean_positive(start, along, across, edges)[0] * concave[:, None]).sum(2)
    ends = []
    for side, shift in ((chord[:, :-1], -STRIP / 2), (chord[:, 1:], STRIP / 2)):
        ends.append(side + at + by * shift + linear[:, None] * (middles + shift))
    return torch.minimum(*ends)


def _mean_positive(start: Tensor, along: Tensor, across: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, Q) the mean of ``max(0, start + s along + across x)`` over a standard normal x, and its derivative by s."""
    mean = start[:, None] + s[:, None] * along[:, None]
    spread = across[:, None].clamp_min(1e-300)
    t = (mean / spread).clamp(-40, 40)
    above = torch.special.ndtr(t)
    value = torch.where(
        (mean / spread).abs() > 39, mean.clamp_min(0), mean * above + spread * (-t * t / 2).exp() / sqrt(2 * pi)
    )
    return value, along[:, None] * above


def _beyond_mean(ratio: Tensor) -> Tensor:
    """Phi(-c) for a c with ``c + psi(c) <= ratio``, by Newton's method from the right; 1 where the ratio is small."""
    t = ratio.clamp(0.05, 60.0)
    c = t.clone()
    for _ in range(12):
        c = c - (c + _psi(c) - t) / torch.special.ndtr(c)
    c = torch.where(c + _psi(c) <= t + 1e-12, c, -60.0) - 1e-7
    return torch.where(ratio >= 0.05, tails.log_normal(c).exp(), 1.0)  # torch's own ndtr cancels in the tail


def _psi(c: Tensor) -> Tensor:
    return (-c * c / 2).exp() / sqrt(2 * pi) - c * torch.special.ndtr(-c)
