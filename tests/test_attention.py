"""Transformers are certified: a block on rows of digits, torch's own layers, masks, and pooling of every kind, proofs evaluated again."""

from functools import cache
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brittle._checker.walk import Model, Moving, forward, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.errors import NotCertified
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix


class Block(nn.Module):
    """Eight rows of an image as tokens: embedding, attention, normalisation, a small network, mean over tokens, head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(8, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.place = nn.Parameter(torch.randn(8, width) / 10)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 12), nn.Linear(12, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, 8, 8)) + self.place
        query, key, value = self.mix(self.first(h)).chunk(3, -1)
        h = h + self.out(F.scaled_dot_product_attention(query, key, value))
        h = h + self.down(F.gelu(self.up(self.second(h))))
        return self.head(h.mean(1))


@cache
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(v) for v in load_digits(return_X_y=True))
    torch.manual_seed(0)
    module = Block().double()
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(10):
        for at in torch.randperm(1500).split(50):
            optimiser.zero_grad()
            F.cross_entropy(module(images[at] / 16), labels[at]).backward()
            optimiser.step()
    right = module(images[1500:] / 16).argmax(1) == labels[1500:]
    assert right.double().mean() > 0.7
    return module.eval(), images[1500:][right][:1] / 16, labels[1500:][right][:1]


def problem_of(radius: float) -> Problem:
    module, x, labels = trained()
    return Problem(module, x, labels, Ball(inf, radius, 0, 1))


def attacked(problem: Problem, steps: int = 12) -> Tensor:
    """The least margin that a sign descent finds, (N,)."""
    low, high = problem.region["x"].exact_range(problem.x)
    radius, x = problem.radius("x").reshape(-1, *[1] * (problem.x.ndim - 1)), problem.x.clone()
    low, high = torch.maximum(low, problem.x - radius), torch.minimum(high, problem.x + radius)
    best = problem.rows().detach().amin(1)
    for _ in range(steps):
        x.requires_grad_()
        margin = problem.spec.rows(problem.module(x), problem.labels).amin(1)
        best = torch.minimum(best, margin.detach())
        (slope,) = torch.autograd.grad(margin.sum(), x)
        x = torch.minimum(torch.maximum(x.detach() - radius / 4 * slope.sign(), low), high)
    return best


def test_a_transformer_block_keeps_its_class_within_a_small_ball() -> None:
    """Not vacuous, below every attack, and at a small radius within a few per cent of what an attack reaches."""
    small = problem_of(0.002)
    tiny, wide = small.scaled(0.005), small.scaled(25.0)
    proved, reached, clean = crown(small).rows.amin(1), attacked(small), small.rows().detach().amin(1)
    assert (proved > 0).all() and (proved <= reached).all()
    assert (clean - proved <= 1.25 * (clean - reached)).all()
    assert (ibp(tiny).rows.amin(1) > 0).all() and (ibp(tiny).rows <= tiny.rows()).all()
    assert (crown(wide).rows.amin(1) <= attacked(wide)).all()


def replay(problem: Problem) -> tuple[Tensor, np.ndarray]:
    """Rows of crown, and for the first example those that the checker proves from its slopes."""
    found, model = crown(problem), Model(graph_of(problem))
    x = problem.x[0]  # type: ignore[index]
    assert np.allclose(forward(model, {"x": x.numpy()}), problem.module(x[None])[0].detach().numpy(), atol=1e-12)
    rows, offsets = matrix(problem.spec, problem.labels, model.known[model.graph.output].shape[0])
    proof = {name: value[0].numpy() for name, value in found.proof.items()}
    ball = Moving(x.reshape(-1).numpy(), inf, problem.region["x"].radius)
    below = rows_below(model, {"x": ball}, {}, proof, rows[:, 0].numpy(), offsets[:, 0].numpy())
    return found.rows, below


class Tokens(nn.Module):
    """A layer on three tokens of four numbers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head, self.token = layer, nn.Linear(4, 3), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 3, 4)
        if isinstance(self.layer, nn.MultiheadAttention):
            tokens = tokens if self.layer.batch_first else tokens.transpose(0, 1)
            mixed = self.layer(tokens, tokens, tokens, need_weights=self.layer.batch_first)[0]
            return self.head(mixed if self.layer.batch_first else mixed.transpose(0, 1)).mean(1)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
        return self.head(
            self.layer(tokens, mask) if isinstance(self.layer, nn.TransformerEncoder) else self.layer(tokens)
        )[:, -1]


LAYERS = {
    "multi-head": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "multi-head, tokens first": lambda: nn.MultiheadAttention(4, 2),
    "encoder layer": lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True),
    "causal encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.1, batch_first=True), 1),
}


QUICK = ("multi-head", "multi-head, tokens first", "causal encoder")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYERS])
def test_layers_of_torch_are_certified_and_checked(name: str) -> None:
    torch.manual_seed(3)
    module = Tokens(LAYERS[name]()).double().eval()
    x = torch.rand(2, 12, dtype=torch.float64)
    problem = Problem(module, x, module(x).argmax(1), Ball(inf, 1e-3))
    ours, theirs = replay(problem)
    assert np.allclose(ours[0].numpy(), theirs, atol=1e-8)
    clean = problem.rows().detach()
    drop = (clean - ours).amax(1)
    assert (clean.amin(1) - attacked(problem) <= drop + 1e-12).all() and (drop < 0.05).all()


POOLINGS = {
    "overlapping": lambda x: F.max_pool2d(x.reshape(-1, 1, 4, 5), 3, 1, 1),
    "adaptive, uneven": lambda x: F.adaptive_max_pool2d(x.reshape(-1, 1, 4, 5), (3, 2)),
    "adaptive, line": lambda x: F.adaptive_max_pool1d(x.reshape(-1, 2, 10), 4),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x.reshape(-1, 1, 4, 5), (3, 2)),
    "largest of a channel": lambda x: x.reshape(-1, 2, 10).amax(-1),
}


class Attends(nn.Module):
    """Three tokens of four numbers, attention of the function itself, logits of the last two tokens."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options, self.head = options, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 3, 4)
        return self.head(F.scaled_dot_product_attention(tokens, 2 * tokens, tokens, **self.options)[:, :2].flatten(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.ones(3, 3).tril(1).bool(), "scale": 0.3}], ids=["causal", "mask and scale"])  # fmt: skip
def test_attention_is_that_of_the_function(options: dict) -> None:
    torch.manual_seed(0)
    module, x = Attends(**options).double(), torch.rand(2, 12, dtype=torch.float64)
    problem = Problem(module, x, module(x).argmax(1), Ball(inf, 0.01))
    rows, below = replay(problem)
    assert np.allclose(rows[0].numpy(), below, atol=1e-9) and (rows <= problem.rows()).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_of_every_kind_is_certified_and_checked(name: str) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 20), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.flatten(POOLINGS[name](self.first(x)), 1))

    torch.manual_seed(4)
    module, x = Pooled(), torch.rand(2, 6)
    module(x)
    module, x = module.double(), x.double()
    problem = Problem(module, x, module(x).argmax(1), Ball(inf, 0.05))
    ours, theirs = replay(problem)
    assert np.allclose(ours[0].numpy(), theirs, atol=1e-9) and (ours.amin(1) <= attacked(problem)).all()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: F.layer_norm(x, (6,), eps=0.0), "eps=0"),
        (lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, attn_mask=torch.full((1, 1), 0.5).double()), "mask of numbers"),
        (lambda x: (x.softmax(0) * x), "mixes examples"),
    ],
)  # fmt: skip
def test_what_is_out_of_reach_says_so(function, reason: str) -> None:
    class Apply(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.flatten(function(x), 1)

    with pytest.raises(NotCertified, match=reason):
        crown(Problem(Apply(), torch.rand(2, 6, dtype=torch.float64), torch.tensor([0, 1]), Ball(inf, 0.1)))
