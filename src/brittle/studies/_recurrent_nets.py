"""Networks of the study ``recurrent``: what they read, the recurrence they hold, and every way they are trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf

import torch
from torch import Tensor, nn

from brittle.cures.constrain import constrain
from brittle.cures.residual_rnn import residual_rnn
from brittle.randomness import fold
from brittle.region import Ball
from brittle.sources.assets import japanese_vowels, mnist, movie_snippets
from brittle.sources.digits import digits
from brittle.training import train

KINDS = {"tanh": "tanh RNN", "gru": "GRU", "lstm": "LSTM"}
LEAF = "recurrent.weight_hh_l0"
MNIST_TRAINING = 10_000
MOST = 500  # test examples that everything is measured on; a data set may have fewer
EMBEDDED = 32  # numbers that stand for a word
VOCABULARY = 1000


@dataclass(frozen=True)
class Task:
    """Data and sizes. ``features``: of one step; ``steps``: of a sequence; ``masked``: the last feature says which steps are data.

    input  l-inf radius of the attack on the inputs (or on the embedded words)
    """

    words: str
    features: int
    classes: int
    steps: int
    size: int
    epochs: int
    rate: float
    batch: int
    input: float
    masked: bool = False
    tokens: bool = False


TASKS = {
    "digits": Task("digits, row by row", 8, 10, 8, 48, 40, 5e-3, 128, 0.03),
    "mnist": Task("MNIST, row by row", 28, 10, 28, 48, 12, 3e-3, 100, 0.03),
    "vowels": Task("JapaneseVowels", 12, 9, 29, 48, 60, 3e-3, 32, 0.1, masked=True),
    "snippets": Task("film reviews", EMBEDDED, 2, 20, 48, 5, 3e-3, 100, 0.02, masked=True, tokens=True),
}
DEFAULT, FULL = ("digits",), ("digits", "mnist", "vowels", "snippets")


class Reader(nn.Module):
    """A recurrent layer, and a dense layer on its last state. With ``masked`` the last feature of a step says whether it is data: padding stands in
    front and is zero, whatever an attack adds to it."""

    def __init__(self, recurrent: nn.Module, size: int, task: Task) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(size, task.classes)
        self.steps, self.masked = task.steps, task.masked

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), self.steps, -1)
        if self.masked:
            x = x[..., :-1] * (x[..., -1:] > 0.5).to(x.dtype)
        return self.head(self.recurrent(x)[0][:, -1])


class TokenReader(nn.Module):
    """Words as vectors, then a :class:`Reader`. Token 0 is padding."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.embedding, self.reader = nn.Embedding(VOCABULARY + 2, EMBEDDED, padding_idx=0), reader

    def embedded(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.embedding(tokens), (tokens > 0).unsqueeze(-1).float()], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.reader(self.embedded(tokens))


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    penalties  as for :func:`brittle.training.train`
    weights    radius of one shared l2 change of the recurrent weights that ``adversarial`` climbs in, as a share of their Frobenius norm
    x          whether the inputs move in ``adversarial`` too, in the ball of the task
    form       of the recurrence: "plain", "orthogonal", "cap", "antisymmetric" or "lipschitz"
    clean      weight of the loss at the weights and inputs as they are
    """

    words: str
    penalties: Mapping[str, float | Mapping[str, object]] = field(default_factory=dict)
    weights: float = 0.0
    x: bool = False
    form: str = "plain"
    clean: float = 1.0


def _climb(steps: int, weight: float = 1.0) -> dict[str, Mapping[str, object]]:
    return {"adversarial": {"weight": weight, "steps": steps, "radius_warm_up": 5}}


RECIPES = {
    "none": Recipe("plain"),
    "adversarial weights": Recipe("adversarial weights", _climb(3, 0.5), weights=0.04),
    "transient and adversarial weights": Recipe("transient penalty and adversarial weights", {"transient": {"weight": 0.1, "steps": 8, "every": 2}, **_climb(2, 0.5)}, weights=0.04),
    "awp": Recipe("AWP, every matrix", {"awp": {"weight": 1.0, "gamma": 0.06, "radius_warm_up": 5}}, clean=0.5),
    "mild awp": Recipe("AWP at half the size", {"awp": {"weight": 1.0, "gamma": 0.03, "radius_warm_up": 5}}),
    "weight noise": Recipe("weight noise", _climb(0), weights=0.4, clean=0.5),
    "joint": Recipe("adversarial weights and inputs", _climb(3), weights=0.06, x=True, clean=0.5),
    "input": Recipe("adversarial inputs", _climb(3), x=True, clean=0.5),
    "orthogonal": Recipe("orthogonal", form="orthogonal"),
    "cap": Recipe("norm capped at 1", form="cap"),
    "antisymmetric": Recipe("antisymmetric cell", form="antisymmetric"),
    "lipschitz": Recipe("Lipschitz cell", form="lipschitz"),
    "pseudospectral_radius": Recipe("penalty: pseudospectral radius", {"pseudospectral_radius": {"weight": 1.0, "epsilon": 0.2, "target": 1.0, "every": 4}}),
    "kreiss": Recipe("penalty: Kreiss constant", {"kreiss": {"weight": 0.1, "every": 8, "tolerance": 0.05}}),
    "distance_to_instability": Recipe("penalty: distance to instability", {"distance_to_instability": {"weight": 1.0, "target": 0.2, "every": 4}}),
    "transient": Recipe("penalty: transient", {"transient": {"weight": 0.1, "steps": 8, "every": 2}}),
    "commutator": Recipe("penalty: commutator", {"commutator": 1.0}),
    "lyapunov": Recipe("penalty: Lyapunov exponents", {"lyapunov": {"weight": 0.1, "exponents": 4}}),
    "state_jacobian": Recipe("penalty: Jacobian along data", {"state_jacobian": {"weight": 0.1}}),
}  # fmt: skip
CELLS = ("antisymmetric", "lipschitz")  # forms that take the place of an nn.RNN


def data(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, labels) to train on and to measure on; padding stands in front."""
    if name in ("digits", "mnist"):
        source = digits if name == "digits" else partial(mnist, limit=MNIST_TRAINING)
        (x, labels), (test, truth) = source("train"), source("test")
        flat = lambda v: torch.as_tensor(v).flatten(1)
        return (flat(x), labels), (flat(test)[:MOST], truth[:MOST])
    read = _spoken if name == "vowels" else _written
    first, second = read("train"), read("test")
    return first, (second[0][:MOST], second[1][:MOST])


def _spoken(split: str) -> tuple[Tensor, Tensor]:
    found = japanese_vowels(split)
    x = torch.zeros(*found.x.shape[:2], found.x.shape[2] + 1)
    for k, length in enumerate(found.lengths.tolist()):
        x[k, -length:, :-1], x[k, -length:, -1] = found.x[k, :length], 1.0
    return x, found.labels


def _written(split: str) -> tuple[Tensor, Tensor]:
    longest = TASKS["snippets"].steps
    found = movie_snippets(split, words=VOCABULARY, longest=longest)
    x = torch.zeros_like(found.x)
    for k, length in enumerate(found.lengths.tolist()):
        x[k, -length:] = found.x[k, :length]
    return x, found.labels


def network(task: Task, kind: str, form: str, seed: int) -> nn.Module:
    """A network as it is drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = _layer(task, kind, form)
        reader = Reader(layer, task.size, task)
        whole = TokenReader(reader) if task.tokens else reader
    return constrain(whole, {"cap": "spectral_norm"}.get(form, form)) if form in ("orthogonal", "cap") else whole


def _layer(task: Task, kind: str, form: str) -> nn.Module:
    if form in CELLS:
        return residual_rnn(task.features, task.size, form, step=0.3)
    made = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind]
    return made(task.features, task.size, batch_first=True)


def trained(name: str, kind: str, recipe: Recipe, run: int, seed: int) -> nn.Module:
    """Trained from the draw of this run: the recipes of a run start from the same weights and see the same batches."""
    task = TASKS[name]
    (x, labels), _ = data(name)
    module = network(task, kind, recipe.form, fold(seed, "recurrent", name, kind, run))
    return train(
        module, x, labels, penalties=recipe.penalties, clean_weight=recipe.clean, region=moves(task, module, recipe), epochs=task.epochs,
        batch=task.batch, rate=task.rate, clip=1.0, seed=fold(seed, "training", run),
    ).module  # fmt: skip


def moves(task: Task, module: nn.Module, recipe: Recipe) -> dict[str, Ball] | None:
    """What moves while a network is trained. A relative l2 ball counts in the root mean square, so a share of the Frobenius norm is times sqrt(entries)."""
    found = {"x": around(task)} if recipe.x else {}
    if recipe.weights:
        leaf = LEAF if not task.tokens else f"reader.{LEAF}"
        count = module.get_parameter(leaf).numel()
        found[leaf] = Ball(p=2, radius=recipe.weights * count**0.5, relative="rms", shared=True)
    return found or None


def around(task: Task) -> Ball:
    """Where an input moves: pixels inside their range; other inputs have none."""
    return Ball(p=inf, radius=task.input) if task.masked else Ball(p=inf, radius=task.input, low=0.0, high=1.0)
