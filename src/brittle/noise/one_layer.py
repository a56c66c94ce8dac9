"""Gaussian noise on the weights of one linear layer is Gaussian noise on its output, exactly: a proved upper end for weight noise."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from brittle import intervals, meter
from brittle.about import About
from brittle.errors import NotCertified
from brittle.graph import Ref, graph_of
from brittle.intervals import gamma
from brittle.laws import Gaussian, Law
from brittle.network import copied
from brittle.noise._moving import check_level, moving
from brittle.noise.probabilistic_crown import probabilistic_crown
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends

ABOUT = About(
    promise="the failure probability under Gaussian weight noise in one layer is at most this number, proved",
    reference="the identity is exact; then as probabilistic_crown on the network behind the layer",
    answers="probability",
    leaves=("parameter",),
    ends="upper",
    cost="as probabilistic_crown, each example by itself",
    effort="standard",
)
SHIFT = "preactivation_shift"
LEAST = 1e-100  # where the layer's input is 0: half-spaces around the clean point gain by noise


def one_layer(
    problem: Problem, laws: Mapping[str, Law], *, seed: int = 0, level: float = 0.95, max_units: int = 2_000
) -> Bracket:
    """Bracket of ``P(margin(weights + noise) <= 0)``, one per example, whose upper end is proved.

    A linear layer maps h to ``W h + b``. Noise on W and b with deviations s_oi and t_o moves output o by a normal number of variance
    ``sum_i s_oi^2 h_i^2 + t_o^2``, independently for every o, since h is before the noise and has one value for each example. So the question is the
    same as that of Gaussian noise on as many numbers as the layer has outputs, which ``probabilistic_crown`` answers.

    Guarantee: as of ``probabilistic_crown``. The layer's input is enclosed by interval propagation of the clean point, in float64 rounded
    outwards, and its largest absolute values give the deviations, rounded up.

    problem   its region is not looked at, and may be absent
    laws      unclipped Gaussians without a covariance matrix on the weight, the bias, or both, of one ``torch.nn.Linear`` that is used once, on vectors
    max_units as of ``probabilistic_crown``
    seed, level   not used: nothing is random
    Status: "not certified: ..." where nothing below 1 could be proved, "misclassified" where the clean point fails.

    >>> linear = torch.nn.Linear(1, 1)
    >>> _ = linear.weight.data.fill_(1.0), linear.bias.data.fill_(1.0)
    >>> problem = Problem(linear, torch.full((1, 1), 2.0), torch.tensor([1]))
    >>> answer = one_layer(problem, {"weight": Gaussian(0.3), "bias": Gaussian(0.8)})
    >>> round(float(answer.upper), 6)  # a margin of 3 with deviation 1
    0.00135
    """
    check_level(level)
    moving(problem, laws)  # refuses unknown leaves before any work
    with meter.measure() as passes:
        try:
            behind, deviations = _behind(problem, laws)
            parts = [
                probabilistic_crown(behind.take(at), {f"x.{SHIFT}": _law(deviations[int(at)])}, max_units=max_units)
                for at in torch.arange(len(problem)).split(1)
            ]
            answer = Bracket.join(parts)
        except NotCertified as reason:
            answer = _nothing(len(problem), str(reason))
    named = lambda names: tuple("one_layer" if name else "" for name in names)
    cost = Cost(passes.forward / len(problem), passes.backward / len(problem), passes.seconds)
    return replace(answer, methods=Ends(named(answer.methods.lower), named(answer.methods.upper)), cost=cost)


class _Shifted(nn.Module):
    """A module in which the output of one layer is moved by an input of its own; it keeps what the layer was given."""

    def __init__(self, module: nn.Module, layer: str, single: bool) -> None:
        super().__init__()
        self.module = module
        self.single = single
        self.held: list[Tensor] = []  # a plain list: no state of the module
        # before hooks of the user's own, which may change what the layer gave
        module.get_submodule(layer).register_forward_hook(self._move, prepend=True, with_kwargs=True)

    def forward(self, **values: Tensor) -> object:
        self.held[:] = [values.pop(SHIFT)]
        return self.module(values["x"]) if self.single else self.module(**values)

    def _move(self, layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        shift = self.held[0]
        self.held.append(given[0] if given else named["input"])
        return output + shift


def _behind(problem: Problem, laws: Mapping[str, Law]) -> tuple[Problem, Tensor]:
    """The question about noise of the layer's output, and the deviations (N, outputs) of that noise."""
    layer, source, scales = _layer(problem, laws)
    double = problem.network.double
    assert isinstance(double, nn.Module)
    single = isinstance(problem.x, Tensor)
    shifted = _Shifted(copied(double), layer, single)
    values = {"x" if single else k.removeprefix("x."): v for k, v in problem.double().inputs.items()}
    linear = double.get_submodule(layer)
    assert isinstance(linear, nn.Linear)
    values[SHIFT] = torch.zeros(len(problem), linear.out_features, dtype=torch.float64, device=problem.device)
    with torch.no_grad():
        shifted(**values)
    given = shifted.held[1:]
    if len(given) != 1 or given[0].dim() != 2 or len(given[0]) != len(problem):
        raise NotCertified(f"layer {layer} is not used just once, on one vector for each example")
    variance = torch.zeros_like(values[SHIFT])
    if "weight" in scales:
        spread = torch.as_tensor(scales["weight"], dtype=torch.float64, device=variance.device)
        variance = variance + _largest(problem, source).square() @ spread.square().expand(linear.weight.shape).T
    if "bias" in scales:
        variance = variance + torch.as_tensor(scales["bias"], dtype=torch.float64, device=variance.device).square()
    behind = Problem(shifted, values, problem.labels, None, problem.spec, problem.index)
    up = 1 + gamma(linear.in_features + 2)  # positive terms: every rounding is relative to the sum
    return behind, (variance.sqrt().cpu() * up).clamp_min(LEAST)


def _largest(problem: Problem, source: str) -> Tensor:
    """(N, inputs): the largest absolute values that the layer's input can have at the clean point, rounding included."""
    still = replace(problem, region={})
    state = intervals.start(still, graph_of(still))
    intervals.propagate(state, {source})
    meter.count(forward=3 * len(problem))
    if source in state.constants:
        return state.constants[source].abs().expand(len(problem), -1)
    return state.largest(source)


def _layer(problem: Problem, laws: Mapping[str, Law]) -> tuple[str, str, dict[str, float | Tensor]]:
    """The name of the one layer that moves, the node that it reads, and the deviations of the noise on its parts."""
    inputs = [leaf for leaf in laws if problem.parameter_name(leaf) is None]
    if inputs:
        raise NotCertified(f"noise on input {inputs[0]}: this bound takes the parameters of one layer")
    scales: dict[str, float | Tensor] = {}
    layers, graph = set(), graph_of(problem)
    for leaf, law in laws.items():
        parameter = str(problem.parameter_name(leaf))
        if not isinstance(law, Gaussian) or law.clip is not None or law.sigma is None:
            raise NotCertified(f"noise on {leaf}: this bound takes unclipped Gaussians without a covariance matrix")
        layer, _, part = parameter.rpartition(".")
        node = graph.parameters.get(parameter)
        users = [n for n in graph.nodes if node in n.sources]
        if len(users) != 1 or users[0].op != "linear" or users[0].arguments.get(part) != Ref(str(node)):
            raise NotCertified(f"parameter {parameter} is not the weight or bias of just one linear operation")
        layers.add((layer, users[0].arguments["input"].name))  # type: ignore[union-attr]
        scales[part] = law.sigma
    module = problem.network.double
    if len(layers) != 1 or not isinstance(module, nn.Module):
        raise NotCertified("noise on several layers at once: this bound takes one")
    ((layer, source),) = layers
    if type(module.get_submodule(layer)) is not nn.Linear:
        raise NotCertified(f"layer {layer!r} is no torch.nn.Linear")
    return layer, source, scales


def _law(deviation: Tensor) -> Gaussian:
    return Gaussian(float(deviation[0]) if bool((deviation == deviation[0]).all()) else deviation)


def _nothing(count: int, note: str) -> Bracket:
    none, blank = ("none",) * count, ("",) * count
    zero = torch.zeros(count, dtype=torch.float64)
    return Bracket("probability", zero, zero + 1, Ends(none, none), (note,) * count, Ends(blank, blank))
