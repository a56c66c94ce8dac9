"""bt.embedded: the vectors behind the tokens are a leaf like any other; padding stands still; plain words where there is nothing to cut."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt


class Text(nn.Module):
    """Words (batch, time) -> two classes; padding is skipped by the length that the tokens themselves tell."""

    def __init__(self, padding: int | None = 0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.words, self.reader, self.head = (
            nn.Embedding(11, 3, padding_idx=padding),
            nn.GRU(3, 5, batch_first=True),
            nn.Linear(5, 2),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.reader(self.words(tokens))[0]
        return self.head(states.mean(1))


TOKENS = torch.tensor([[0, 0, 3, 7, 2], [0, 4, 4, 9, 1], [5, 6, 10, 2, 8]])


def question(p: float = 2, module: nn.Module | None = None) -> tuple[nn.Module, bt.Problem]:
    text = module or Text()
    labels = text(TOKENS).argmax(1)
    cut, x = bt.embedded(text, TOKENS)
    return text, bt.Problem(cut, x, labels, {"x.embedded": bt.Ball(p=p, radius=1.0)})


@pytest.mark.parametrize("p", [1, 2, inf])
def test_radius_of_embedded_words_with_witnesses_that_replay_and_leave_padding_alone(p):
    text, problem = question(p)
    found = bt.radius(problem, effort="quick")
    moved = found.witness.point["x.embedded"]
    clean = text.words(TOKENS).detach()
    assert bool(found.witness.found.all()) and bool((found.lower <= found.upper).all())
    assert bool((moved[TOKENS == 0] == clean[TOKENS == 0]).all()), "padding moved"
    with torch.no_grad():  # replayed without brittle: the model behind its embedding, by hand
        logits = text.head(text.reader(moved)[0].mean(1))
    assert bool((logits.argmax(1) != problem.labels).all())
    length = torch.linalg.vector_norm((moved - clean).double().flatten(1), p, dim=1)
    torch.testing.assert_close(found.upper, length, rtol=1e-6, atol=0)


def test_padding_answers_with_its_own_vector_whatever_is_given_there():
    text, problem = question()
    x = dict(problem.x)
    elsewhere = x["embedded"] + 5.0 * (TOKENS == 0)[..., None]
    assert bool((problem.module(**{**x, "embedded": elsewhere}) == text(TOKENS)).all())
    loose, values = bt.embedded(Text(padding=None), TOKENS)
    assert not bool((loose(**{**values, "embedded": elsewhere}) == text(TOKENS)).all()), (
        "nothing says which token is padding"
    )
    held, values = bt.embedded(Text(padding=None), TOKENS, padding=0)
    assert bool(
        (
            held(**{**values, "embedded": values["embedded"] + (TOKENS == 0)[..., None]}) == Text(padding=None)(TOKENS)
        ).all()
    )


def test_the_module_is_untouched_and_weights_move_with_the_words():
    text = Text()
    before = {k: v.clone() for k, v in text.state_dict().items()}
    _, problem = question(module=text)
    both = bt.Problem(
        problem.module, problem.x, problem.labels, {**problem.region, "module.head.weight": bt.Ball(p=2, radius=1.0)}
    )
    assert bool(bt.margin(both, effort="quick").upper.isfinite().all()) and text.training
    assert all(bool((v == before[k]).all()) for k, v in text.state_dict().items()) and not text.words._forward_hooks


def test_without_padding_bounds_work_as_on_any_input():
    torch.manual_seed(1)
    text = nn.Sequential(nn.Embedding(9, 2, padding_idx=0), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    cut, x = bt.embedded(text, tokens)
    found = bt.radius(
        bt.Problem(cut, x, text(tokens).argmax(1), {"x.embedded": bt.Ball(p=2, radius=1.0)}), effort="quick"
    )
    assert (
        bool((found.lower > 0).all())
        and bool((found.lower <= found.upper).all())
        and bool(found.upper.isfinite().all())
    )


def test_keyword_inputs_and_a_named_layer():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.words, self.places, self.head = nn.Embedding(11, 4), nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            h = torch.tanh(self.words(input_ids) + self.places(torch.arange(input_ids.shape[1])))
            weight = attention_mask[..., None].to(h.dtype)
            return {"logits": self.head((h * weight).sum(1) / weight.sum(1))}

    named = {"input_ids": TOKENS, "attention_mask": (TOKENS > 0).long()}
    with pytest.raises(bt.InputError, match=r"2: 'words', 'places'.*layer='words'"):
        bt.embedded(Positions(), named)
    with pytest.raises(bt.InputError, match="'word'"):
        bt.embedded(Positions(), named, layer="word")
    with pytest.raises(bt.InputError, match="first axis"):
        bt.embedded(Positions(), named, layer="places")
    cut, x = bt.embedded(Positions(), named, layer="words", padding=0)
    labels = Positions()(**named)["logits"].argmax(1)
    found = bt.radius(bt.Problem(cut, x, labels, {"x.embedded": bt.Ball(p=inf, radius=1.0)}), effort="quick")
    assert bool(found.witness.found.all())


class Twice(Text):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + super().forward(tokens.flip(1))


@pytest.mark.parametrize(
    ("module", "tokens", "words"),
    [
        (nn.Linear(5, 2), TOKENS, "one nn.Embedding, got none"),
        (nn.Sequential(nn.EmbeddingBag(11, 3), nn.Linear(3, 2)), TOKENS, "adds the words up"),
        (Twice(), TOKENS, "read 2 times"),
        (Text(), TOKENS + 20, "what the module can read"),
        (Text(), TOKENS.float(), "integer tokens"),
        (lambda tokens: tokens, TOKENS, "torch.nn.Module"),
        (Text(), {"tokens": TOKENS, "embedded": TOKENS}, "rename"),
    ],
)
def test_plain_words(module, tokens, words):
    with pytest.raises(bt.InputError, match=words):
        bt.embedded(module, tokens)
