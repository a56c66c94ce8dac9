"""A package of four files, installed beside brittle, adds an attack, a bound, a diagnostic and a panel, and touches nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "attacks": '''
from math import inf
import torch
from brittle.about import About
ABOUT = About(promise="a boundary point", reference="none", norms=(2, inf),
              answers="radius", leaves=("input",), effort="quick")

def toy_attacks(problem, *, seed=0, start=None):
    """Somebody else's attack under a name of its own."""
    from dataclasses import replace
    from brittle.attacks.hlrf import hlrf
    return replace(hlrf(problem, seed=seed, start=start), method="toy_attacks")
''',
    "bounds": '''
from math import inf
from brittle.about import About
ABOUT = About(promise="interval bounds", reference="none", norms=(2, inf), answers="margin", leaves=("input",))

def toy_bounds(problem):
    """Somebody else's bound under a name of its own."""
    from dataclasses import replace
    from brittle.bounds.ibp import ibp
    return replace(ibp(problem), method="toy_bounds")
''',
    "diagnostics": '''
from brittle.about import About
ABOUT = About(promise="the clean margin of every example", reference="none", effort="quick")

def toy_diagnostics(problem, *, seed=0):
    """How far each example is from the decision, in logit units."""
    from brittle.results import Finding
    return Finding("toy_diagnostics", "Clean margins, by a toy", {"margin": problem.margin().double().cpu()}, note="A toy speaks.")
''',
    "panels": '''
from brittle.about import About
ABOUT = About(promise="a section of a toy", reference="none", answers="99")

def toy_panels(run):
    """One sentence."""
    return f"<p>The toy panel saw {len(run.models)} model.</p>"
''',
}  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a process that has the package installed."""
    home = tmp_path_factory.mktemp("site")
    package, facts = home / "toybox", home / "toybox-1.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("")
    for family, text in FILES.items():
        (package / f"toy_{family}.py").write_text(text)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toybox\nVersion: 1.0\n")
    points = (f"[brittle.{f}]\ntoy_{f} = toybox.toy_{f}:toy_{f}\n" for f in FILES)
    (facts / "entry_points.txt").write_text("".join(points))
    return {**os.environ, "PYTHONPATH": str(home)}


def run(environment, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_they_are_listed(environment) -> None:
    listed = json.loads(run(environment, "-m", "brittle.cli.main", "list", "--format", "json"))
    assert {f"toy_{f}" for f in FILES} <= {row["name"] for row in listed}


def test_they_run_through_the_conformance_suites(environment) -> None:
    told = run(
        environment,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "test_attacks.py",
        "test_bounds.py",
        "-k",
        "toy_ and (affine or one_unit)",
    )
    passed = re.search(r"(\d+) passed", told)
    assert passed and int(passed[1]) >= 4 and "failed" not in told


def test_they_appear_in_the_audit_and_its_report(environment, tmp_path) -> None:
    folder = tmp_path / "run"
    arguments = ["demo:mlp", "sklearn:digits", "--limit", "17", "--effort", "quick", "--low", "0", "--high", "1"]
    run(environment, "-m", "brittle.cli.main", "audit", *arguments, "--region", "l2=2:1", "--out", str(folder))
    page = (folder / "report.html").read_text()
    assert "The toy panel saw 1 model." in page and "Clean margins, by a toy" in page and "A toy speaks." in page
    plan = json.loads((folder / "run.json").read_text())["plan"]
    assert "toy_attacks" in json.dumps(plan)
