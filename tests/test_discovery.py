"""One file = one method: built-in files and installed packages are found by name, without being imported."""

import importlib
import subprocess
import sys

import pytest

from brittle import discovery
from brittle.discovery import FAMILIES, check_options, method, methods, portfolio
from brittle.errors import InputError

TOYS = {
    "attacks": "def {name}(problem, *, seed=0, start=None):\n    return 'attacked'",
    "bounds": "def {name}(problem):\n    return 'bounded'",
    "diagnostics": "def {name}(problem, *, seed=0):\n    return 'explained'",
    "panels": "def {name}(run):\n    return '<p>toy</p>'",
}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """An installed distribution with one toy of each family."""
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    points = ""
    for family, body in TOYS.items():
        name = f"toy_{family}"
        text = f"from brittle.about import About\n\nABOUT = About(promise='a toy', reference='none', answers='margin')\n\n\n{body.format(name=name)}\n"
        (package / f"{name}.py").write_text(text)
        points += f"[brittle.{family}]\n{name} = toys.{name}:{name}\n"
    facts = tmp_path / "toys-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [m for m in sys.modules if m.split(".")[0] == "toys"]:
        del sys.modules[name]


def test_a_package_adds_a_method_of_every_kind(toys):
    for family, answer in zip(TOYS, ("attacked", "bounded", "explained", "<p>toy</p>"), strict=True):
        name = f"toy_{family}"
        found = {m.name: m for m in methods(family)}[name]
        assert f"toys.{name}" not in sys.modules  # listed without an import
        assert (found.source, found.about.promise, found.about.effort) == ("toys", "a toy", "")
        assert method(family, name)(None) == answer
    assert {f"toy_{f}" for f in TOYS} <= {m.name for m in methods()}


def test_what_a_package_raises_names_the_package(toys):
    bound = method("bounds", "toy_bounds")
    (toys / "toys" / "toy_bounds.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError) as raised:
        bound(None)
    assert raised.value.__notes__ == ["raised by toy_bounds of bounds, from the installed package toys"]


def test_an_unknown_method_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match="got apdg; did you mean 'apgd'. see brittle list attacks"):
        method("attacks", "apdg")
    with pytest.raises(InputError, match="; see brittle list attacks"):
        method("attacks", "zzz")


def test_an_unknown_option_is_answered_with_the_nearest_name():
    def mine(problem, *, restarts=1, seed=0): ...

    with pytest.raises(InputError, match="some of restarts, seed, got restart; did you mean 'restarts'"):
        check_options(mine, {"restart": 3})
    with pytest.raises(InputError, match="got zzz; leave it out"):
        check_options(mine, {"zzz": 3})


def test_without_the_package_it_is_gone():
    assert not [m for m in methods() if m.name.startswith("toy_")]


def test_a_file_in_a_family_folder_is_a_method(tmp_path, monkeypatch):
    family = tmp_path / "bounds"
    family.mkdir()
    (family / "fresh.py").write_text("from brittle.about import About\nABOUT = About('p', 'r', norms=(1, inf))\n")
    (family / "_shared.py").write_text("")
    monkeypatch.setattr(discovery, "__file__", str(tmp_path / "discovery.py"))
    discovery._built_in.cache_clear()
    try:
        assert [(m.name, m.about.norms) for m in discovery._built_in("bounds")] == [("fresh", (1, float("inf")))]
        (family / "mute.py").write_text("x = 1\n")
        discovery._built_in.cache_clear()
        with pytest.raises(InputError, match="mute.py: expected a line ABOUT"):
            discovery._built_in("bounds")
    finally:
        discovery._built_in.cache_clear()


def test_every_built_in_method_declares_itself_and_has_a_function_of_its_name():
    for found in methods():
        assert callable(found.function) and found.function.__name__ == found.name
        if found.family != "panels":
            assert found.about.promise and found.about.reference, found


def test_portfolios_grow_with_effort_and_fit_the_question():
    quick, standard, thorough = (portfolio("attacks", e, "radius", (2,), ("input",)) for e in discovery.EFFORTS)
    names = [{m.name for m in p} for p in (quick, standard, thorough)]
    assert names[0] <= names[1] <= names[2] and names[2]
    assert not portfolio("attacks", "thorough", "radius", (7,))
    with pytest.raises(InputError, match="quick | standard | thorough"):
        portfolio("attacks", "heroic", "radius")


def test_misspelt_names_are_answered_with_the_right_ones():
    with pytest.raises(InputError, match="crown"):
        method("bounds", "crwn")
    with pytest.raises(InputError, match="attacks"):
        methods("atacks")
    with pytest.raises(InputError, match="expected some of draws, got drwas"):
        check_options(lambda problem, *, draws=1: None, {"drwas": 2})
    assert set(FAMILIES) >= set(TOYS)


def test_listing_imports_no_torch():
    code = "import sys, brittle.discovery as d; d.methods(); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
