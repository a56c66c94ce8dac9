"""The public names: each works, twice, after everything is imported; importing brittle costs next to nothing."""

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from math import inf

import pytest
import torch

import brittle as bt


@pytest.fixture(scope="module")
def question():
    """Every module imported, then one small question."""
    for info in pkgutil.walk_packages(bt.__path__, "brittle."):
        if not info.name.endswith("executors.ray"):
            importlib.import_module(info.name)
    torch.manual_seed(0)
    linear = torch.nn.Linear(2, 3)
    x = torch.rand(2, 2)
    return linear, x, linear(x).argmax(1)


def calls(linear, x, labels):
    """Public name -> a call of it."""
    problem = bt.Problem(linear, x, labels, bt.Ball(p=2, radius=1.0))
    quick = {"effort": "quick"}
    folder = tempfile.mkdtemp() + "/run"
    run = lambda: bt.audit(linear, x, labels, {"l2": bt.Ball(p=2, radius=1.0)}, out=folder, checks=False, progress=False, report=None,
                           diagnostics=[], **quick)  # fmt: skip
    run()
    ends = bt.margin(problem, **quick)
    return {
        "Problem": lambda: bt.Problem(linear, x, labels),
        "Ball": lambda: bt.Ball(p=inf, radius=1),
        "Gaussian": lambda: bt.Gaussian(0.1),
        "Laplace": lambda: bt.Laplace(0.1),
        "smoothed_radius": lambda: bt.smoothed_radius(problem, bt.Gaussian(0.1), draws=20),
        "normalise": lambda: bt.normalise(torch.nn.RNN(2, 2)),
        "foreign": lambda: bt.foreign(lambda model, inputs, labels: inputs)(problem),
        "UniformBall": lambda: bt.UniformBall(0.1),
        "UniformCube": lambda: bt.UniformCube(0.1),
        "UniformSphere": lambda: bt.UniformSphere(0.1),
        "Replace": lambda: bt.Replace(1),
        "Sampler": lambda: bt.Sampler(lambda x, generator: x),
        "Untargeted": bt.Untargeted,
        "Targeted": lambda: bt.Targeted(1),
        "TopK": lambda: bt.TopK(2),
        "Threshold": bt.Threshold,
        "Bracket": lambda: bt.Bracket("margin", ends.lower, ends.upper, ends.kinds, ends.status, ends.methods),
        "Witness": lambda: bt.Witness({}, x, x, x, ()),
        "Certificate": lambda: bt.Certificate(x, "none"),
        "Finding": lambda: bt.Finding("name", "title"),
        "Cost": lambda: bt.Cost() + bt.Cost(1),
        "InputError": lambda: bt.InputError("a", "b", "c", "d"),
        "NotCertified": lambda: bt.NotCertified("a"),
        "BracketError": lambda: bt.BracketError("a"),
        "About": lambda: bt.About("a", "b"),
        "margin": lambda: bt.margin(problem, **quick),
        "radius": lambda: bt.radius(problem, **quick),
        "accuracy": lambda: bt.accuracy(problem, **quick),
        "probability": lambda: bt.probability(problem, bt.Gaussian(0.1), draws=20, **quick),
        "population": lambda: bt.population(problem, bt.Gaussian(0.1)),
        "tolerated_noise": lambda: bt.tolerated_noise(problem, bt.Gaussian(0.1), points=8, **quick),
        "optimum": lambda: bt.optimum(torch.eye(3), torch.arange(3)),
        "embedded": lambda: bt.embedded(
            torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Flatten()), torch.ones(2, 1, dtype=torch.int64)
        ),
        "averaged": lambda: bt.averaged(linear, draws=2),
        "failure_rate": lambda: bt.failure_rate(bt.Problem(bt.averaged(linear), x, labels), draws=5),
        "Subspace": lambda: bt.Subspace.span(x),
        "surgery": lambda: bt.surgery(linear, bt.Subspace.span(x[:1])),
        "diagnose": lambda: bt.diagnose(problem, "rank_profile"),
        "spectrum": lambda: bt.spectrum(torch.eye(2) / 2, effort="quick"),
        "doctor": lambda: bt.doctor(linear, x, labels),
        "audit": run,
        "load_run": lambda: bt.load_run(folder),
        "verify": lambda: bt.verify(folder, linear, x, labels),
        "harden": lambda: bt.harden(linear, (x, labels), {"jacobian": 0.1}, epochs=1),
        "methods": lambda: bt.methods("attacks"),
    }


def test_every_public_name_works_twice_after_importing_everything(question):
    made = calls(*question)
    assert set(made) | {"__version__"} == set(bt.__all__), "add a call of the new name to this test"
    for call in made.values():
        call(), call()
    assert all(callable(getattr(bt, name)) for name in made) and bt.__version__


def test_dir_and_misspelling_help():
    assert set(dir(bt)) == set(bt.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'raduis'; did you mean 'radius'\? it has .*radius"):
        bt.raduis  # noqa: B018


def test_importing_brittle_imports_nothing_heavy():
    code = "import sys, brittle; print([m for m in ('torch', 'numpy', 'scipy', 'polars', 'typer', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_brittle_adds_little_to_importing_torch():
    """0.4 s for every module that a first question needs; the least of two runs, as other processes may be in the way."""
    code = "import torch, time; t = time.process_time(); import brittle; brittle.Problem, brittle.radius, brittle.Ball; print(time.process_time() - t)"
    run = lambda: float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    spent = run()
    assert min(spent, run() if spent > 0.4 else spent) < 0.4
