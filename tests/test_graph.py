"""The exported graph: stable plain data, whatever the module returns, counts or stores."""

import pickle
from collections import namedtuple
from math import inf

import pytest
import torch
from torch import nn

import zoo
from brittle import meter
from brittle.bounds.ibp import ibp
from brittle.digest import state_digest
from brittle.errors import NotCertified
from brittle.graph import Batch, Graph, Ref, graph_of
from brittle.ops import call, evaluate, is_nonlinear
from brittle.problem import Problem
from brittle.region import Ball

X, LABELS = torch.rand(3, 4), torch.tensor([0, 1, 0])


def run(graph: Graph, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A third party's interpreter: one loop."""
    values = dict(graph.constants)
    for leaf, name in graph.inputs.items():
        values[name] = inputs[leaf].double()
    count = len(next(iter(inputs.values())))
    for node in graph.nodes:
        if node.op in ("input", "constant"):
            continue
        if is_nonlinear(node):
            values[node.name] = call(
                node, {k: values[v.name] if isinstance(v, Ref) else v for k, v in node.arguments.items()}
            )
        else:
            values[node.name] = evaluate(node, values, count)
        assert tuple(values[node.name].shape) == ((count, *node.shape) if node.varies else node.shape)
    return values[graph.output]


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_a_loop_over_the_nodes_is_the_module(case) -> None:
    module, x, labels = case.make()
    problem = Problem(module, x, labels)
    with meter.measure() as seen:
        graph = graph_of(problem)
    assert seen.forward == 0, "export counts no passes"
    assert graph.batch is None and graph_of(problem) is graph
    pickle.loads(pickle.dumps(graph))
    for count in (1, len(x)):
        assert torch.allclose(run(graph, {"x": x[:count]}), problem.network.double(x[:count].double()), atol=1e-12)
    assert set(graph.parameters) == set(problem.network.parameters())
    again = graph_of(Problem(module, x[:1], labels[:1]))
    assert [n.name for n in again.nodes] == [n.name for n in graph.nodes] and again.batch is None


class Wrapped(nn.Module):
    """A linear layer whose forward does what ``how`` says."""

    def __init__(self, how) -> None:
        super().__init__()
        self.layer, self.how, self.calls, self.seen = nn.Linear(4, 2), how, 0, None

    def forward(self, x):
        return self.how(self, self.layer(x))


def counts(self, z):
    self.calls += 1
    return z


def stores(self, z):
    self.seen = z
    return z


Output = namedtuple("Output", ["logits", "hidden"])


@pytest.mark.parametrize(
    "how",
    [
        counts, stores, lambda s, z: (z, 3), lambda s, z: {"hidden": z + 1, "logits": z}, lambda s, z: Output(z, z * 2),
        lambda s, z: z.view(z.size(0), -1), lambda s, z: z + torch.tensor([0.5, 1.0], dtype=z.dtype),
    ],
)  # fmt: skip
def test_forwards_that_count_store_or_wrap_their_output(how) -> None:
    module = Wrapped(how).eval()
    handle = module.layer.register_forward_hook(lambda m, i, o: setattr(m, "last", o))
    problem = Problem(module, X, LABELS, Ball(inf, 0.1))
    before = state_digest(module)
    assert ibp(problem).rows.shape == (3, 1)
    assert ibp(problem.scaled(0.0)).rows.allclose(problem.double().rows(), atol=1e-9)
    assert state_digest(module) == before
    handle.remove()


def test_a_module_tied_to_one_batch_size_is_exported_for_that_size() -> None:
    module = Wrapped(lambda s, z: z.reshape(3, 2))
    problem = Problem(module, X, LABELS, Ball(inf, 0.1))
    graph = graph_of(problem)
    assert graph.batch == 3
    assert ibp(problem.scaled(0.0)).rows.allclose(problem.double().rows(), atol=1e-9)


def test_a_plain_function_around_a_module_is_told_to_become_a_module() -> None:
    layer = nn.Linear(2, 2)
    problem = Problem(lambda x: layer(x), torch.rand(3, 2), torch.tensor([0, 1, 0]), Ball(inf, 0.1))
    with pytest.raises(NotCertified, match="plain function.*write it as a torch.nn.Module"):
        ibp(problem)


def test_data_dependent_control_flow_is_not_certified_and_asked_once() -> None:
    module = Wrapped(lambda s, z: z if bool(z.sum() > 0) else -z)
    problem = Problem(module, X, LABELS, Ball(inf, 0.1))
    with pytest.raises(NotCertified, match="cannot export"):
        ibp(problem)
    with pytest.raises(NotCertified, match="cannot export"):
        graph_of(problem)
    assert ("graph", 3) in problem.network.cache


def test_an_operation_with_several_results_is_named_by_itself() -> None:
    module = Wrapped(lambda s, z: z.topk(2)[0])
    problem = Problem(module, X, LABELS, Ball(inf, 0.1))
    with pytest.raises(NotCertified, match="^not certified: operation topk$"):
        ibp(problem)


def test_tied_parameters_are_one_node() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    module[2].weight = module[0].weight
    graph = graph_of(Problem(module, X, LABELS))
    assert set(graph.parameters) == set(dict(module.named_parameters()))
    users = [n.name for n in graph.nodes if graph.parameters["0.weight"] in n.sources]
    assert users == ["linear", "linear_1"]


def test_a_parameter_called_like_the_input_gets_a_name_of_its_own() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.ones(4))
            self.layer = nn.Linear(4, 2)

        def forward(self, values):
            return self.layer(values * self.x)

    graph = graph_of(Problem(Clash(), X, LABELS))
    assert graph.inputs["x"] != graph.parameters["x"]
    assert torch.allclose(run(graph, {"x": X}).sum(), run(graph, {"x": X}).sum())


def test_sizes_are_multiples_of_the_batch() -> None:
    module = Wrapped(lambda s, z: z + torch.zeros(z.shape[0], 2, dtype=z.dtype))
    graph = graph_of(Problem(module, X, LABELS))
    made = next(n for n in graph.nodes if n.op == "zeros")
    assert made.arguments["size"] == (Batch(1), 2) and made.varies and made.shape == (2,)


def test_a_plain_function_has_a_graph_too() -> None:
    problem = Problem(lambda x: torch.cat([x[:, :1] * 2, x[:, 1:2]], 1), X, LABELS, Ball(inf, 0.1))
    assert ibp(problem.scaled(0.0)).rows.allclose(problem.double().rows(), atol=1e-9)
