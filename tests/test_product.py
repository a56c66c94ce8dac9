"""Closed forms: equal to their formulas, below joint attacks; and why the values in them must come from intervals."""

from functools import partial
from math import inf

import pytest
import torch
from torch import Tensor, nn

import joint_attacks
from brittle.bounds.ibp import ibp
from brittle.bounds.product import product
from brittle.errors import InputError, NotCertified
from brittle.problem import Problem
from brittle.questions.margin import margin
from brittle.region import Ball

FORMS = ("product", "scalar", "vector")


def net(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).double()


def joint(module: nn.Module, x: Tensor, eps_x: float, eps: float, bias: float = 0.0) -> Problem:
    region = {"x": Ball(inf, eps_x)}
    region |= {n: Ball(inf, bias if n.endswith("bias") else eps) for n, _ in module.named_parameters()}
    return Problem(module, x, module(x).argmax(1), region)


def formula(problem: Problem, form: str, eps_x: float, eps: float) -> Tensor:
    """Theory written down once more, for one eps per layer and no range."""
    linear = [m for m in problem.module if isinstance(m, nn.Linear)]  # type: ignore[attr-defined]
    z, largest, r = [problem.x], [problem.x.abs() + eps_x], torch.full_like(problem.x, eps_x)
    low, high = problem.x - eps_x, problem.x + eps_x
    size = torch.full((len(problem),), eps_x, dtype=torch.float64)
    for layer in linear[:-1]:
        w, n, rows = layer.weight, layer.in_features, layer.weight.abs().sum(1).amax()
        ends = [(w + s * eps) * v[:, None] for s in (-1, 1) for v in (low, high)]
        extreme = torch.stack(ends)
        if form == "vector":
            r = r @ w.abs().T + eps * (z[-1].abs() + r).sum(1, keepdim=True)
        elif form == "scalar":
            size = (rows + n * eps) * size + eps * z[-1].abs().sum(1)
        else:
            size = rows * size + eps * largest[-1].sum(1)
        low, high = (torch.relu(v + layer.bias) for v in (extreme.amin(0).sum(2), extreme.amax(0).sum(2)))
        z.append(torch.relu(layer(z[-1])))
        largest.append(high)
    if form != "vector":
        r = size[:, None].expand_as(z[-1])
    last, rows = linear[-1], []
    for i, label in enumerate(problem.labels.tolist()):
        change = largest[-1][i] if form == "product" else z[-1][i].abs() + r[i]
        c = [last.weight[label] - last.weight[j] for j in range(last.out_features) if j != label]
        rows.append(torch.stack([row.abs() @ r[i] + 2 * eps * change.sum() for row in c]))
    return problem.rows() - torch.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [(4, 3), (4, 6, 3), (4, 6, 5, 3)])
def test_equal_to_the_formula(form, sizes) -> None:
    torch.manual_seed(0)
    module = net(*sizes)
    problem = joint(module, torch.rand(5, 4, dtype=torch.float64), 0.02, 0.01)
    rows = product(problem, form=form).rows
    assert torch.allclose(rows, formula(problem, form, 0.02, 0.01).detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, partial(nn.LeakyReLU, 0.3)])
def test_below_joint_attacks_and_intervals(form, activation) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        module = net(4, 6, 5, 3, activation=activation)
        problem = joint(module, torch.randn(3, 4, dtype=torch.float64), 0.03, 0.02, 0.01).scaled(
            torch.tensor([0.1, 0.5, 1.0])
        )
        rows = product(problem, form=form).rows
        found, _ = joint_attacks.lowest_rows(problem, steps=4, corners=3, seed=seed)
        assert (rows <= found).all()
        assert (rows <= ibp(problem).rows + 1e-9).all()  # intervals keep what norms forget


def test_only_the_last_layer_moves() -> None:
    torch.manual_seed(1)
    module = net(4, 6, 3)
    x = torch.randn(4, 4, dtype=torch.float64)
    problem = Problem(module, x, module(x).argmax(1), {"3.weight": Ball(inf, 0.02)})
    drop = 0.04 * torch.relu(module[1](x)).abs().sum(1, keepdim=True)
    for form in FORMS:
        assert torch.allclose(product(problem, form=form).rows, problem.rows() - drop, rtol=0, atol=1e-12)


def test_relative_balls_and_ranges() -> None:
    torch.manual_seed(2)
    module = net(4, 6, 3)
    x = torch.rand(4, 4, dtype=torch.float64)
    for ball in (Ball(inf, 0.05, relative="element"), Ball(2, 0.02, relative="rms"), Ball(inf, 0.02, -1, 1)):
        region = {"x": Ball(inf, 0.02, 0, 1), "1.weight": ball, "3.weight": ball, "3.bias": Ball(inf, 0.01)}
        problem = Problem(module, x, module(x).argmax(1), region).scaled(torch.linspace(0.2, 1, 4))
        found, _ = joint_attacks.lowest_rows(problem, steps=4, corners=3)
        for form in FORMS:
            assert (product(problem, form=form).rows <= found).all()


def starred(module: nn.Sequential, x: Tensor, eps: float) -> Tensor:
    """Values that enter the last layer when eps is added to every weight: how one could read the paper, and no bound."""
    for layer in list(module)[:-1]:
        x = nn.functional.linear(x, layer.weight + eps, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
    return x.detach()


def test_values_with_eps_added_to_every_weight_are_no_bound_and_ours_are() -> None:
    """By hand: a smaller first layer makes the second larger. The last rows are equal, so that the drop is ``2 eps |z|_1`` alone."""
    module = net(1, 1, 1, 2)
    with torch.no_grad():
        for tensor, value in zip(
            module.parameters(), ([[1.0]], [0.0], [[-1.0]], [2.0], [[1.0], [1.0]], [3.0, 0.0]), strict=True
        ):
            tensor.copy_(torch.tensor(value))
    x, eps = torch.ones(1, 1, dtype=torch.float64), 0.5
    problem = joint(module, x, 0.0, eps)
    worst = float(joint_attacks.lowest_rows(problem, steps=20, corners=30)[0])
    assert worst == pytest.approx(3.0 - 2 * eps * 1.75)  # 0.5 in the first layer, -0.5 * 0.5 + 2 in the second
    assert (
        3.0 - 2 * eps * float(starred(module, x, eps)) == pytest.approx(3.0 - 2 * eps * 1.25)
        and worst < 3.0 - 2 * eps * 1.25
    )
    assert float(product(problem).rows) <= worst


def test_the_naive_values_are_exceeded_on_most_random_networks() -> None:
    """8-10-10-10, eps 0.05: signs of gradients reach a larger last-hidden l1 norm than the pass with eps everywhere; never than intervals."""
    exceeded, eps = 0, 0.05
    for seed in range(40):
        torch.manual_seed(seed)
        module = net(8, 10, 10, 10)
        with torch.no_grad():
            for layer in module[1:4:2]:
                layer.weight.normal_(0, 0.5)
        x, names = torch.rand(1, 8, dtype=torch.float64), ("1.weight", "3.weight")
        clean = {n: p.detach() for n, p in module.named_parameters() if n in names}
        hidden = lambda v, m=module, x=x: torch.func.functional_call(m[:-1], v, (x,)).sum()
        reached, values = 0.0, clean
        for _ in range(8):
            values = {n: v.requires_grad_() for n, v in values.items()}
            slopes = torch.autograd.grad(hidden(values), list(values.values()))
            values = {n: clean[n].detach() + eps * g.sign() for (n, _), g in zip(values.items(), slopes, strict=True)}
            reached = max(reached, float(hidden(values).detach()))
        exceeded += reached > float(starred(module, x, eps).sum()) * (1 + 1e-9)
        if seed < 4:  # the last rows equal: the drop is 2 eps |u| alone
            flat = nn.Sequential(*module[:-1], nn.Linear(10, 2)).double()
            with torch.no_grad():
                flat[-1].weight.fill_(0.0)
            region = {**dict.fromkeys(names, Ball(inf, eps)), "5.weight": Ball(inf, eps)}
            problem = Problem(flat, x, torch.tensor([0]), region)
            assert reached <= float(problem.rows() - product(problem).rows) / (2 * eps) * (1 + 1e-9)
    assert exceeded >= 20


def test_what_is_no_chain_says_so() -> None:
    x, labels = torch.rand(2, 4), torch.tensor([0, 1])
    ball = {"x": Ball(inf, 0.1)}
    for module in (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), nn.Sequential(nn.Linear(4, 3), nn.ReLU())):
        with pytest.raises(NotCertified, match="chain"):
            product(Problem(module, x, labels, ball))
    with pytest.raises(InputError, match="form"):
        product(Problem(nn.Linear(4, 3), x, labels, ball), form="sum")
    answer = margin(Problem(nn.Linear(4, 3).double(), x.double(), labels, ball), ends="lower", bounds=["product"])
    assert answer.methods.lower == ("product", "product")
