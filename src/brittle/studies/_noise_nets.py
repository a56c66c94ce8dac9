"""The networks of the study ``noise``, in any input dimension at the price of 64: two exact reductions.

**Data.** A digit of 8 x 8 pixels becomes one of n = 64 k pixels (MNIST: 784 k) by repeating every pixel k times and dividing by sqrt(k): x' = U x with
U^T U = I. Every distance between images stays what it was, only the space around them grows: "fixed data, more dimensions".

**Training.** Stochastic gradient descent on x' moves the first layer W (h, n) only inside the span of the data, and V = W U follows the same
descent on x: dL/dW = (dL/dV) U^T. So V is trained in 64 dimensions and W = W0 + (V - V0) U^T, exactly (in real arithmetic).

**Noise and worst case.** The network sees a change d of its input only through W d, and W W^T = L L^T with L (h, min(h, n)): Gaussian noise
and l2 distances of the network z -> tail(W x' + b + L u) in u are those of the network in n dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brittle.problem import Problem
from brittle.region import Ball
from brittle.sources.assets import mnist
from brittle.sources.digits import digits

BATCH, RATE, MOMENTUM = 64, 0.05, 0.9  # folklore: every depth of the study then reads 95 % of the digits
EPOCHS = {"digits": 40, "mnist": 4}
LEAF = "x.u"


class Perturbed(nn.Module):
    """``tail(start + scale * L u)``: the noise u moves, where it starts and how strong it is are inputs of each example."""

    def __init__(self, factor: Tensor, tail: nn.Module) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor.double(), requires_grad=False)
        self.tail = tail.double()

    def forward(self, u: Tensor, start: Tensor, scale: Tensor) -> Tensor:
        return self.tail(start + (scale * u) @ self.factor.T)


@dataclass(frozen=True, eq=False)
class Network:
    """A rectifier network in n dimensions, reduced, with the inputs that it is asked about.

    dimension  n; factor (h, m) the L above; tail: what follows the first layer's sums; starts (N, h): those sums at the inputs
    labels     (N,) the classes that must be kept; logits (N, C); accuracy: of the whole test set
    """

    dimension: int
    factor: Tensor
    tail: nn.Sequential
    starts: Tensor
    labels: Tensor
    logits: Tensor
    accuracy: float

    @property
    def units(self) -> int:
        """Hidden units in all."""
        return len(self.factor) + sum(m.out_features for m in list(self.tail)[1:-1] if isinstance(m, nn.Linear))

    @property
    def margins(self) -> Tensor:
        """(N,) the logit of the class less the largest other one."""
        own = self.logits.gather(1, self.labels[:, None])
        return (own - self.logits.scatter(1, self.labels[:, None], -torch.inf)).amin(1)

    def problem(self, scale: Tensor | float = 1.0) -> Problem:
        """May u move by noise of a scale of its own for every example? With scale 1, distances in u are those of the inputs."""
        count, width = len(self.starts), self.factor.shape[1]
        each = torch.as_tensor(scale, dtype=torch.float64).expand(count)[:, None]
        x = {"u": torch.zeros(count, width, dtype=torch.float64), "start": self.starts, "scale": each.contiguous()}
        return Problem(Perturbed(self.factor, self.tail).eval(), x, self.labels, {LEAF: Ball(p=2, radius=1.0)})


@dataclass(frozen=True, eq=False)
class Pictures:
    """Flat images (N, pixels) and their labels."""

    x: Tensor
    labels: Tensor


def pictures(source: str) -> tuple[Pictures, Pictures]:
    """Training and test set: "digits" (64 pixels) or "mnist" (784, fetched)."""
    load = {"digits": digits, "mnist": mnist}[source]
    train, test = (load(split) for split in ("train", "test"))
    return tuple(Pictures(torch.as_tensor(d.x).flatten(1), d.labels) for d in (train, test))  # type: ignore[return-value]


def digit_network(
    n: int, widths: Sequence[int], trained: bool, seed: int, count: int, source: str = "digits"
) -> Network:
    """A network of hidden ``widths`` on digits in n dimensions, and the first ``count`` test digits that it reads correctly.

    Weights start normal with variance 2 / fan-in, biases 0 (He initialisation). An untrained network keeps whatever class it gives.
    """
    train, test = pictures(source)
    pixels = train.x.shape[1]
    weights, repeats = initial_weights((n, *widths, 10), seed), n // pixels
    first = weights[0].reshape(len(weights[0]), pixels, repeats).sum(2) / repeats**0.5  # V0 = W0 U
    module = rectifier([first, *weights[1:]])
    if trained:
        descend(module, train.x, train.labels, seed, EPOCHS[source])
    module = module.double().eval()
    change = module[0].weight.detach() - first.double()  # type: ignore[union-attr]
    whole = weights[0].double() + change.repeat_interleave(repeats, 1) / repeats**0.5
    return reduced(n, whole, module, test.x, test.labels if trained else None, count)


def reduced(n: int, first: Tensor, module: nn.Sequential, x: Tensor, labels: Tensor | None, count: int) -> Network:
    """The reduction of ``module`` whose first layer reads ``x``, and is ``first`` (h, n) in the n dimensions of the noise.

    labels : None keeps the classes that the network gives; else the first ``count`` correctly classified inputs are taken.
    """
    with torch.no_grad():
        logits = module(x.double())
        given = logits.argmax(1)
        right = torch.ones(len(x), dtype=torch.bool) if labels is None else given == labels
        at = right.nonzero()[:count, 0]
        starts = module[0](x[at].double())
    tail = nn.Sequential(*list(module)[1:])
    accuracy = float(right.double().mean())
    return Network(n, square_root(first), tail, starts, given[at], logits[at], accuracy)


def square_root(first: Tensor) -> Tensor:
    """L (h, min(h, n)) with ``L L^T = W W^T``: W itself where it is not wider than high, else its Cholesky factor.

    >>> square_root(torch.tensor([[3.0, 0.0, 4.0]], dtype=torch.float64))
    tensor([[5.]], dtype=torch.float64)
    """
    high, wide = first.shape
    return first if wide <= high else torch.linalg.cholesky(first @ first.T)


def initial_weights(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Normal weights of variance 2 / fan-in. K. He et al., ICCV 2015."""
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(sizes, sizes[1:], strict=False)
    return [torch.randn(b, a, generator=generator) * (2 / a) ** 0.5 for a, b in pairs]


def rectifier(weights: Sequence[Tensor]) -> nn.Sequential:
    """Linear layers of these weights and no biases yet, with rectifiers between them."""
    layers: list[nn.Module] = []
    for weight in weights:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight.clone(), torch.zeros(len(weight))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def descend(module: nn.Module, x: Tensor, labels: Tensor, seed: int, epochs: int) -> None:
    """Plain stochastic gradient descent with momentum on the cross-entropy: what the reduction above is exact for."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(module.parameters(), RATE, momentum=MOMENTUM)
    for _ in range(epochs):
        for at in torch.randperm(len(x), generator=generator).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[at]), labels[at]).backward()
            optimiser.step()
