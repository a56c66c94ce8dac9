"""What the analytic bounds share: rows read as half-spaces of the noise, union bounds over them, and the bracket at the end."""

from collections.abc import Callable, Mapping
from math import inf, prod

import torch
from torch import Tensor

from brittle import backward, meter, ops
from brittle.errors import NotCertified
from brittle.graph import Graph, Node, graph_of
from brittle.intervals import State
from brittle.laws import Law
from brittle.noise._half_spaces import HalfSpaces, half_spaces
from brittle.noise._moving import check_level, moving
from brittle.problem import Problem
from brittle.region import Ball
from brittle.relaxation import inner, pull_back
from brittle.results import Bracket, Cost, Ends

ENTRIES = 2**24  # numbers held at once, 128 MB: more settings of more examples than that are taken in turns
FURTHER = (
    2.0**-28
)  # what half-spaces are moved outwards for probabilities from below: more than deviations are ever widened by
RAREST = 1e-280  # rarer half-spaces are left out of probabilities from below: their tails are bounds, or underflow
VACUOUS = "not certified: under noise this strong the bound is 1"


def proved(
    name: str,
    problem: Problem,
    laws: Mapping[str, Law],
    level: float,
    max_units: int,
    copies: int,
    bound: Callable[[Problem, HalfSpaces], tuple[Tensor, Tensor] | Tensor],
) -> Bracket:
    """The bracket [lower, upper], the bounds evaluated on as many examples at a time as memory allows.

    bound   (problem whose only moving leaf is the noisy one, half-spaces of its law) -> upper ends (N,), or (lower, upper)
    copies  how many times over the bound holds every example at once
    """
    check_level(level)
    question, count = moving(problem, laws), len(problem)
    lower, upper = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    notes = [VACUOUS] * count
    with meter.measure() as passes:
        try:
            law = half_spaces(question, laws)
            graph = graph_of(question)
            backward.check(graph, [], max_units, "raise max_units, or rely on covering")
            size = max(1, ENTRIES // (copies * backward.entries(graph)))
            parts = [_ends(bound(question.take(at), law.take(at))) for at in torch.arange(count).split(size)]
            lower = torch.cat([low for low, _ in parts]).cpu().nan_to_num(nan=0.0).clamp(0.0, 1.0)
            upper = torch.cat([up for _, up in parts]).cpu().nan_to_num(nan=1.0).clamp(0.0, 1.0)
        except NotCertified as reason:
            notes = [str(reason)] * count
        wrong = (problem.double().margin() <= 0).tolist()
    kinds = lambda said, word, blank: tuple(word if s else blank for s in said.tolist())
    above, below = upper < 1, lower > 0
    status = (
        "ok" if up else "misclassified" if w else "ok" if low else note
        for up, low, w, note in zip(above.tolist(), below.tolist(), wrong, notes)
    )
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(kinds(below, "proved", "none"), kinds(above, "proved", "none")),
        tuple(status),
        Ends(kinds(below, name, ""), kinds(above, name, "")),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
    )


def _ends(answer: tuple[Tensor, Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(answer), answer) if isinstance(answer, Tensor) else answer


def boxed(question: Problem, law: HalfSpaces, radius: Tensor) -> Problem:
    """The question in the box of half-width ``radius`` (N,), the ground on which rounding is estimated."""
    return question.within({law.leaf: Ball(inf, 1.0)}).scaled(radius)


def pulled_rows(
    problem: Problem, state: State, law: HalfSpaces, node: str, rows: Tensor, relaxed: backward.Relaxed
) -> tuple[Tensor, Tensor]:
    """``row . value(node) >= base + <w, delta>`` in the box, where the relaxation holds: base (R, N), w (R, N or 1, D)."""
    meter.count(backward=len(rows) * state.count)
    pulled = pull_back(state, node, rows, relaxed)
    leaves = {name: leaf for leaf, name in state.graph.inputs.items()}
    base, slope = pulled.constant - pulled.slack, rows.new_zeros(len(rows), 1, 1)
    for name, coefficients in pulled.coefficients.items():
        centre = problem.inputs[leaves[name]].detach().double()
        base = base + inner(coefficients, centre) - backward.evaluation_loss(state, pulled, name)
        if leaves[name] == law.leaf:
            slope = coefficients.flatten(2)
    return backward.settled(base, pulled), slope


def failing(problem: Problem, state: State, law: HalfSpaces, relaxed: backward.Relaxed) -> Tensor:
    """(R, N) bounds of the probability that a row is <= 0, where the relaxation holds: of ``<-w, delta> >= base``."""
    base, slope = specified(problem, state, law, relaxed)
    return law.along(base, -slope.expand(-1, state.count, -1)).exp()


def surely_failing(problem: Problem, state: State, law: HalfSpaces, relaxed: backward.Relaxed) -> Tensor:
    """(N,) at most the probability that the margin is <= 0, plus that of the relaxation not holding.

    Where it holds a row is at most ``base + <w, delta>`` by its upper plane, and fails where that is <= 0, a half-space whose probability is known exactly for
    round laws (for others 0 is returned). The rank-th smallest row is <= 0 where ``rank`` rows fail, which has at least the sum of their
    probabilities less rank - 1.
    """
    base, slope = specified(problem, state, law, relaxed, -1.0)
    if not law.exact or law.least is None:
        return base.new_zeros(state.count)
    slope = slope.expand(-1, state.count, -1)
    far = law.tail(-base * (1 + FURTHER), law.least(slope)).exp() * (1 - 1e-8)
    far = torch.where(far > RAREST, far, 0.0)
    near = 1 - law.tail(base * (1 - 2.0**-40), law.read(slope)).exp()
    likely = torch.where(base < 0, far, near).sort(0, descending=True).values
    rank = problem.spec.rank
    return (likely[:rank].sum(0) - (rank - 1)) * (1 - 2.0**-40)


def any_of(likely: Tensor, rank: int) -> Tensor:
    """(N,) a bound of the probability that the margin is <= 0, from those of its rows (R, N).

    The rank-th smallest row is <= 0 only where ``rank`` rows fail, hence one of *any* R - rank + 1 rows fails: the least likely ones are summed.
    """
    return summed(likely.sort(0).values[: len(likely) - rank + 1])


def specified(
    problem: Problem, state: State, law: HalfSpaces, relaxed: backward.Relaxed, sign: float = 1.0
) -> tuple[Tensor, Tensor]:
    """:func:`pulled_rows` of the specification, or with ``sign`` -1 of its negative."""
    rows, offsets, doubt = backward.specification(problem, state)
    rows, offsets = sign * rows, sign * offsets
    bases, slopes = [], []
    for block in torch.arange(len(rows), device=rows.device).split(backward.rows_at_once(state)):
        base, slope = pulled_rows(problem, state, law, state.graph.output, rows[block], relaxed)
        least = base + offsets[block] - doubt[block]
        bases.append(least - 4 * 2.0**-53 * (base.abs() + offsets[block].abs() + doubt[block]))
        slopes.append(slope)
    return torch.cat(bases), torch.cat(slopes)


def summed(probabilities: Tensor) -> Tensor:
    """A sum over the first axis, rounded upwards."""
    return probabilities.sum(0) * (1 + (len(probabilities) + 8) * 2.0**-52)


def unit_count(graph: Graph) -> int:
    """Scalar inputs of all nonlinear nodes."""
    return sum(prod(graph.by_name[backward.source_of(node)].shape) for node in graph.nodes if ops.is_nonlinear(node))


def piece(state: State, node: Node, middle: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the linear piece that holds ``middle`` (K, N); where there is none an empty one, which is left for sure."""
    left, right = torch.full_like(middle, -inf), torch.full_like(middle, inf)
    function = None if node.op in ops.TAPPED else backward.activation(state, node)
    if function is None or function.bend is not None:
        return torch.full_like(middle, inf), torch.full_like(middle, -inf)
    for kink in function.kinks:
        left = torch.where(middle >= kink, torch.full_like(middle, kink).maximum(left), left)
        right = torch.where(middle < kink, torch.full_like(middle, kink).minimum(right), right)
    return left, right
