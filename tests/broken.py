"""Deliberately broken models: for each the check that must fire, and with which consequence."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Broken:
    """``make()`` gives module, inputs, labels; ``expected`` maps a check to the consequence it must have."""

    make: Callable[[], tuple[Callable, Tensor, Tensor]]
    expected: dict[str, str]
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        return self.make.__name__


class Through(nn.Module):
    """A plain network with something done to its inputs, its features or its outputs."""

    def __init__(self, body: nn.Module, before=None, after=None) -> None:
        super().__init__()
        self.body, self.before, self.after = body, before or (lambda x: x), after or (lambda z: z)

    def forward(self, x: Tensor) -> object:
        return self.after(self.body(self.before(x)))


def data(count: int = 64, features: int = 8) -> Tensor:
    return torch.rand(count, features, generator=torch.Generator().manual_seed(5))


def body(features: int = 8, classes: int = 4, seed: int = 7) -> nn.Sequential:
    """Random features with an evenly used head: classes occur about equally often on :func:`data`."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, classes))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / p.shape[-1] ** 0.5 * 2)
        net[2].bias.sub_(net(data(256, features)).mean(0))
    return net.eval()


def healthy() -> tuple[nn.Module, Tensor, Tensor]:
    """The control: what all the models below are made from."""
    return labelled(body())


def labelled(module: nn.Module, x: Tensor | None = None, plain: nn.Module | None = None):
    """Labels are what the undamaged network (default: the module itself) says."""
    x = data() if x is None else x
    with torch.no_grad():
        return module, x, (plain or module)(x).argmax(1)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * float("inf")


def zero_gradient():
    net = body()
    return labelled(Through(net, before=_NoGradient.apply), plain=net)


def infinite_gradient():
    net = body()
    return labelled(Through(net, before=_Infinite.apply), plain=net)


def rounding():
    return labelled(Through(body(), before=lambda x: (x * 8).round() / 8))


def straight_through_rounding():
    """The gradient is there, but says nothing about small moves: rounding with the gradient of the identity."""
    return labelled(Through(body(), before=lambda x: x + ((x * 4).round() / 4 - x).detach()))


def winner_takes_all():
    """k-winner activation over wide random features: a dense set of jumps (Xiao et al. 2020)."""
    torch.manual_seed(0)
    wide = nn.Linear(8, 2048)
    head = nn.Linear(2048, 4)

    def features(x: Tensor) -> Tensor:
        h = wide(x)
        least = h.topk(64, dim=1).values[:, -1:]
        return torch.where(h >= least, h * 64, torch.zeros_like(h))

    module = Through(head, before=features).eval()
    with torch.no_grad():
        head.bias.sub_(module(data(256)).mean(0))
    return labelled(module)


def large_logits():
    return labelled(Through(body(), after=lambda z: z * 1e4))


def small_logits():
    return labelled(Through(body(), after=lambda z: z * 1e-4))


def dropout_left_on():
    net = body()
    return labelled(Through(net, before=lambda x: functional.dropout(x, 0.3)), plain=net)


def python_randomness():
    net = body()
    return labelled(Through(net, after=lambda z: z + random.random()), plain=net)


def nan_at_the_clean_point():
    return Through(body(), after=lambda z: z.log()), data(), torch.zeros(64, dtype=torch.long)


def nan_gradients():
    """sqrt at 0: the value is fine, the derivative is infinite, and 0 * inf makes NaN."""
    return labelled(Through(body(), before=lambda x: x + (x * 0).sqrt()))


def detached():
    return labelled(Through(body(), after=lambda z: z.detach()))


def no_gradients_forward():
    net = body()
    return labelled(Through(net, before=torch.no_grad()(lambda x: x * 1), after=torch.no_grad()(lambda z: z * 1)))


def integer_cast():
    return labelled(Through(body(), before=lambda x: (x * 255).to(torch.int32).float() / 255))


def input_dependent_shift():
    """A shift drawn with the input as the seed: repeatable, and different after the smallest move."""

    def shifted(x: Tensor) -> Tensor:
        keys = (x.double().sum(1) * 1e9).frac()
        noise = torch.stack([(keys * (k + 13) * 1e4).frac() for k in range(x.shape[1])], 1)
        return x + (0.3 * (noise - 0.5)).to(x.dtype).detach()

    return labelled(Through(body(), before=shifted))


def single_logit():
    net = body(classes=1)
    with torch.no_grad():
        return net, data(), (net(data())[:, 0] > 0).long()


def single_probability():
    net = body(classes=1)
    with torch.no_grad():
        return Through(net, after=torch.sigmoid), data(), (net(data())[:, 0] > 0).long()


def two_logits():
    return labelled(body(classes=2))


class Purifier(nn.Module):
    """Moves the input by gradient steps of an inner loss before it classifies; works inside no_grad too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            for _ in range(3):
                z = z - 0.01 * torch.autograd.grad((z - 0.5).square().sum(), z)[0]
        return self.body(z.detach() + x - x.detach())


def purification():
    return labelled(Purifier())


def batch_statistics():
    net = body()
    return labelled(Through(net, before=nn.BatchNorm1d(8, track_running_stats=False)).eval())


def batch_centred():
    """As above, without the complaint of batch-norm about a batch of one."""
    return labelled(Through(body(), before=lambda x: x - x.mean(0)))


def softmax_output():
    return labelled(Through(body(), after=lambda z: z.softmax(1)))


def log_softmax_output():
    return labelled(Through(body(), after=lambda z: z.log_softmax(1)))


def images(count: int = 64) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(6))


def _imagenet(x: Tensor) -> Tensor:
    return (x - x.new_tensor([0.485, 0.456, 0.406])[:, None, None]) / x.new_tensor([0.229, 0.224, 0.225])[:, None, None]


def _on_images(before=None) -> Through:
    """A network whose classes change with a wrong normalisation."""
    net = body(48)
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(net[0].weight.shape, generator=g))
        net[2].bias.zero_()
        net[2].bias.sub_(net(_imagenet(images(256)).flatten(1)).mean(0))
    return Through(nn.Sequential(nn.Flatten(), net), before=before).eval()


def normalisation_forgotten():
    """The network was trained on normalised inputs and gets raw ones."""
    return labelled(_on_images(), images(), plain=_on_images(before=_imagenet))


def normalised_twice():
    """The model normalises, and so did the user."""
    module = _on_images(before=_imagenet)
    with torch.no_grad():
        return module, _imagenet(images()), module(images()).argmax(1)


def bytes_as_inputs():
    """The network was trained on 0..1 and gets 0..255."""
    module = body()
    with torch.no_grad():
        return module, data() * 255, module(data()).argmax(1)


def byte_range_declared():
    """Inputs in 0..1, range declared as 0..255."""
    return healthy()


def outside_the_range():
    return healthy()


def labels_off_by_one():
    module, x, y = healthy()
    return module, x, (y + 1) % 4


def labels_from_one():
    module, x, y = healthy()
    return module, x, y + 1


def constant():
    module = nn.Linear(8, 4)
    nn.init.zeros_(module.weight)
    return module.eval(), data(), torch.arange(64) % 4


def half_weights():
    net = body().bfloat16()
    return labelled(net, data().bfloat16())


def half_weights_float_inputs():
    return body().half(), data(), torch.zeros(64, dtype=torch.long)


class Normed(nn.Module):
    """Batch-norm with statistics that fit the data; handed over in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.body = nn.BatchNorm1d(8), nn.Dropout(0.2), body()
        self.norm.running_mean.copy_(data().mean(0))
        self.norm.running_var.copy_(data().var(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.drop(self.norm(x)))


def training_mode():
    module = Normed().eval()
    _, x, y = labelled(module)
    return module.train(), x, y


def statistics_untrained():
    """The same with statistics that never saw the data: right in training mode only."""
    module = Normed()
    module.drop.p = 0.0
    with torch.no_grad():
        labels = module.body((data() - data().mean(0)) / (data().var(0, correction=0) + 1e-5).sqrt()).argmax(1)
        module.norm.running_mean.fill_(-3)
        module.norm.running_var.fill_(25)
    return module.train(), data(), labels


class CountsCalls(nn.Module):
    """Writes to a buffer of its own in every forward; the logits do not care."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x)


def writes_a_buffer():
    return labelled(CountsCalls())


class Drifts(CountsCalls):
    """As above, and the logits do care."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.01 * self.calls)


def remembers_its_calls():
    return labelled(Drifts())


class NotCopied(nn.Module):
    """Holds a tensor with a history, which deepcopy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def copy_fails():
    module = NotCopied()
    module.last = module.body(data())  # carries its graph
    return module, data(), module.last.detach().argmax(1)


class CopiesWrongly(nn.Module):
    """A copy of it starts afresh."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.body = body(seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def __deepcopy__(self, memo):
        return CopiesWrongly(seed=8)


def copies_wrongly():
    return labelled(CopiesWrongly())


class WritesToAGlobal(nn.Module):
    """Every copy writes to the one tensor that the user's module holds as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        seen = torch.zeros(())
        self.register_buffer("seen", seen)
        self.note = lambda: seen.add_(1)  # a closure is shared by all copies

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        return self.body(x)


def writes_to_a_global():
    return labelled(WritesToAGlobal())


def with_logits_attribute():
    net = body()
    return labelled(Through(net, after=lambda z: SimpleNamespace(logits=z)), plain=net)


def tuple_output():
    net = body()
    return labelled(Through(net, after=lambda z: (z, z * 0)), plain=net)


def mapping_output():
    net = body()
    return labelled(Through(net, after=lambda z: {"hidden": z * 0, "logits": z}), plain=net)


def text_output():
    return Through(body(), after=str), data(), torch.zeros(64, dtype=torch.long)


def fixed_batch_size():
    net = body()

    def exactly(x: Tensor) -> Tensor:
        return x.reshape(64, 8)

    return labelled(Through(net, before=exactly), plain=net)


BROKEN = [
    Broken(zero_gradient, {"gradients": "invalid", "shattered_gradients": "warn"}),
    Broken(infinite_gradient, {"gradients": "invalid"}),
    Broken(rounding, {"gradients": "invalid"}),
    Broken(straight_through_rounding, {"shattered_gradients": "warn"}),
    Broken(winner_takes_all, {"shattered_gradients": "warn"}),
    Broken(large_logits, {"gradients": "warn"}),
    Broken(small_logits, {"gradients": "warn"}),
    Broken(dropout_left_on, {"random_forward": "warn"}),
    Broken(python_randomness, {"random_forward": "warn"}),
    Broken(nan_at_the_clean_point, {"gradients": "stop"}),
    Broken(nan_gradients, {"gradients": "invalid"}),
    Broken(detached, {"cut_graph": "warn", "gradients": "invalid", "shattered_gradients": "warn"}),
    Broken(no_gradients_forward, {"cut_graph": "warn", "gradients": "invalid", "shattered_gradients": "warn"}),
    Broken(integer_cast, {"cut_graph": "warn", "gradients": "invalid", "shattered_gradients": "warn"}),
    Broken(input_dependent_shift, {"shattered_gradients": "warn"}),
    Broken(single_logit, {"labels": "note"}),
    Broken(single_probability, {"probabilities": "warn"}),
    Broken(two_logits, {"labels": "note"}),
    Broken(purification, {"inner_optimisation": "invalid"}),
    Broken(batch_statistics, {"batch_dependence": "invalid"}),
    Broken(batch_centred, {"batch_dependence": "invalid"}),
    Broken(softmax_output, {"probabilities": "warn"}),
    Broken(log_softmax_output, {"probabilities": "note"}),
    Broken(normalisation_forgotten, {"input_range": "stop"}),
    Broken(normalised_twice, {"input_range": "stop"}),
    Broken(bytes_as_inputs, {"input_range": "stop", "gradients": "invalid"}),
    Broken(byte_range_declared, {"input_range": "warn"}, 0.0, 255.0),
    Broken(outside_the_range, {"input_range": "stop"}, 0.0, 0.5),
    Broken(labels_off_by_one, {"labels": "stop", "clean_accuracy": "warn"}),
    Broken(labels_from_one, {"labels": "stop"}),
    Broken(constant, {"gradients": "invalid"}),
    Broken(half_weights, {"precision": "note"}),
    Broken(half_weights_float_inputs, {"pipeline": "stop"}),
    Broken(training_mode, {"train_mode": "note"}),
    Broken(statistics_untrained, {"train_mode": "warn", "clean_accuracy": "warn"}),
    Broken(writes_a_buffer, {"train_mode": "note"}),
    Broken(remembers_its_calls, {"random_forward": "warn", "train_mode": "note"}),
    Broken(copy_fails, {"pipeline": "stop"}),
    Broken(copies_wrongly, {"pipeline": "stop"}),
    Broken(writes_to_a_global, {"untouched": "stop"}),
    Broken(with_logits_attribute, {"labels": "none"}),
    Broken(tuple_output, {"labels": "none"}),
    Broken(mapping_output, {"labels": "none"}),
    Broken(text_output, {"labels": "stop"}),
    Broken(fixed_batch_size, {"pipeline": "stop"}),
]
