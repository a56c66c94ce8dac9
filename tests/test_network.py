"""The user's module is never changed, and its float64 copy computes in float64 whatever its forward says."""

import pickle

import pytest
import torch
from torch import nn

from brittle.digest import state_digest, weights_digest
from brittle.network import Network, lend, read_logits
from brittle.problem import Problem
from brittle.region import Ball


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, outputs))


X = torch.linspace(0, 1, 24).reshape(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Casts(nn.Module):
    """Every way to fix float32 inside a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.shift = torch.full((4,), 0.1)  # neither parameter nor buffer
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        state = torch.zeros(1, len(x), 4)
        h = torch.empty(x.shape, dtype=torch.float32)
        h[:] = self.inner(x.float())
        return self.lstm((h + self.shift).to(torch.float32)[:, None], (state, state))[0][:, 0]


def reference(module: Casts, x):
    """The same in float64 throughout, by hand."""
    import copy

    wide = copy.deepcopy(module).double()
    state = torch.zeros(1, len(x), 4, dtype=torch.float64)
    h = wide.inner(x.double()) + module.shift.double()
    return wide.lstm(h[:, None], (state, state))[0][:, 0]


def test_the_quiet_copy_leaves_modes_flags_and_buffers_alone():
    module = net().train()
    module[0].weight.requires_grad_(False)
    before = state_digest(module)
    network = Network(module)
    network.seal()
    assert not any(m.training for m in network.quiet.modules())
    assert not any(p.requires_grad for p in network.quiet.parameters())
    network.quiet(X)
    assert state_digest(module) == before and network.intact()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.eval(),
        lambda m: m[0].weight.requires_grad_(False),
        lambda m: m[0].weight.data.add_(1e-7),
        lambda m: m[1].running_mean.add_(1e-7),
        lambda m: setattr(m[0].bias, "grad", torch.zeros(5)),
        lambda m: setattr(m[0], "bias", nn.Parameter(m[0].bias.detach().clone())),
    ],
)
def test_a_seal_breaks_at_every_kind_of_change(change):
    network = Network(net().train())
    network.seal()
    change(network.original)
    assert not network.intact()


def test_a_lent_module_comes_back_to_the_last_bit():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = net(), 0
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("replaced", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen += 1
            self.replaced = self.replaced + 1
            return self.inner(x) + torch.rand(())

    module = Restless().train()
    before, random_state = state_digest(module), torch.get_rng_state()
    with pytest.raises(KeyError), lend(module) as lent:
        assert not lent.training
        assert not lent(X).requires_grad
        raise KeyError
    assert state_digest(module) == before and module.calls == 0 and module.inner.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert dict(module.named_buffers())["replaced"] is module.replaced


def test_float64_reads_every_type_as_float64():
    module = Casts().eval()
    problem = Problem(module, X, Y, Ball(p=2, radius=1.0))
    exact = problem.double().logits()
    assert exact.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(exact, reference(module, X), rtol=1e-14, atol=1e-15)


def test_float64_gradients_pass_through_the_widened_forward():
    problem = Problem(Casts().eval(), X, Y, Ball(p=2, radius=1.0)).double()
    _, gradient = problem.gradient(problem.centre)
    assert gradient["x"].dtype == torch.float64 and bool((gradient["x"] != 0).any())


def test_a_closure_over_float32_weights_is_evaluated_in_float64():
    module = net().eval()
    with torch.no_grad():
        exact = Problem(lambda x: module(x), X, Y).double().logits()
        torch.testing.assert_close(exact, Problem(module, X, Y).double().logits(), rtol=1e-14, atol=1e-15)


def test_plain_modules_are_not_slowed_by_a_mode_and_learning_is_kept():
    plain, casting = Problem(net().eval(), X, Y), Problem(Casts().eval(), X, Y)
    for problem in (plain, casting):
        problem.double().logits()
    assert not plain.double().network.cache.get("reads every type as float64")
    assert casting.double().network.cache["reads every type as float64"]
    assert casting.double().network is casting.network.widened


def test_a_model_that_raises_still_raises_in_float64():
    def angry(x):
        if x.dtype == torch.float64:
            raise RuntimeError("never in float64")
        return x

    with pytest.raises(RuntimeError, match="never in float64"):
        Problem(angry, X, Y).double().logits()


def test_an_exported_program_is_copied_quietly_and_widened():
    program = torch.export.export(net().eval(), (X,)).module()
    problem = Problem(program, X, Y, Ball(p=2, radius=1.0))
    plain = Problem(net().eval(), X, Y)
    torch.testing.assert_close(problem.logits(), plain.logits())
    assert problem.double().logits().dtype == torch.float64


def test_recurrent_layers_give_gradients_in_evaluation_mode():
    problem = Problem(Casts().eval(), X, Y, Ball(p=2, radius=1.0))
    _, gradient = problem.gradient(problem.centre)
    assert bool(gradient["x"].isfinite().all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: cuDNN's refusal does not exist on a CPU")
def test_recurrent_layers_give_gradients_on_a_gpu():
    problem = Problem(
        nn.Sequential(nn.Unflatten(1, (2, 2)), Last()).cuda().eval(), X.cuda(), Y.cuda() % 2, Ball(2, 1.0)
    )
    _, gradient = problem.gradient(problem.centre)
    assert bool((gradient["x"] != 0).any())


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


def test_networks_travel_with_their_precision():
    wide = pickle.loads(pickle.dumps(Network(net().eval()).widened))
    assert wide.wide and next(wide.quiet.parameters()).dtype == torch.float64 and wide.double is wide.quiet


def test_digests_tell_weights_from_state():
    module = net().train()
    weights, state = weights_digest(module), state_digest(module)
    module.eval()
    assert weights_digest(module) == weights and state_digest(module) != state


@pytest.mark.parametrize("output", [torch.ones(3), [torch.ones(3, 1)], {"a": "text", "b": torch.ones(3, 1)}])
def test_logits_are_read_from_every_container(output):
    assert read_logits(output).shape == (3, 1)
