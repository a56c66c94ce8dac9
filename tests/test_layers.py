"""The layers of docs/design/architecture.md, read off the parsed imports of every file: relative ones, and those inside functions."""

import ast
from functools import cache
from pathlib import Path

import pytest

import brittle

ROOT = Path(brittle.__file__).parent
LAYERS = {
    0: "errors about randomness meter digest norms section stats tails replacement linalg discovery",
    1: "region laws spec evidence results network leaves validation problem graph lowering axes exporting composites attention heads writing curves products ops rooms intervals absolute planes transposes sharing folding relaxation backward receptive gates lipschitz boundary activations reinitialised subspace restricted embeddings averaging partners paths",
    2: "attacks bounds noise references diagnostics spectra penalties cures checks questions",
    3: "records files store smoothing health runs chunks commons rows findings planning progress verifier verifying _checker stepping training executors studies sources",
    4: "report spectrum_report study_report plots panels templates",
    5: "cli testing",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}
FAMILIES = set(LAYERS[2].split())
ACROSS = {
    "questions": FAMILIES,
    "penalties": {"attacks", "bounds", "spectra"},
    "cures": {"spectra"},
    "diagnostics": {"spectra"},
}  # what one family of methods may import of others
FILES = sorted(ROOT.rglob("*.py"))
RECORDS_ONLY = {
    "discovery",
    "records",
    "about",
    "errors",
    "files",
    "store",
}  # L4 reads these, and they never import torch
HEAVY = {"torch", "scipy", "sklearn", "polars", "ray", "matplotlib"}


@cache
def imports(file: Path) -> tuple[tuple[str, bool], ...]:
    """(dotted module, at module level) of every import. ``from package import name`` counts as package.name too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ["brittle", *file.relative_to(ROOT).with_suffix("").parts][:-1]
    later = {
        n
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for n in ast.walk(f)
    }
    later |= {
        n
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in later) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found += [(f"{module}.{alias.name}", node not in later) for alias in node.names]
    return tuple(found)


def part(dotted: str) -> str | None:
    """The module or package directly below brittle that an import names."""
    pieces = dotted.split(".")
    return (
        pieces[1]
        if pieces[0] == "brittle"
        and len(pieces) > 1
        and (ROOT / pieces[1]).exists() | (ROOT / f"{pieces[1]}.py").exists()
        else None
    )


def home(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    known = {home(f) for f in FILES} - {"__init__", "__main__"}
    assert known <= set(LAYER), (
        f"give these a layer here and in docs/design/architecture.md: {sorted(known - set(LAYER))}"
    )


def test_a_module_imports_only_from_its_own_layer_and_below():
    wrong = [
        f"{file.relative_to(ROOT)} (layer {LAYER[home(file)]}) imports {dotted} (layer {LAYER[target]})"
        for file in FILES
        if home(file) in LAYER
        for dotted, _ in imports(file)
        if (target := part(dotted)) in LAYER and LAYER[target] > LAYER[home(file)]
    ]
    assert not wrong, "\n".join(wrong)


def test_families_do_not_import_each_other():
    wrong = [
        f"{file.relative_to(ROOT)} imports {dotted}"
        for file in FILES
        if home(file) in FAMILIES
        for dotted, _ in imports(file)
        if part(dotted) in FAMILIES - {home(file)} - ACROSS.get(home(file), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_checker_shares_no_code_with_the_bounds():
    allowed = {"_checker", "graph"}
    wrong = [
        f"{f.name}: {d}"
        for f in FILES
        if home(f) == "_checker"
        for d, _ in imports(f)
        if part(d) not in {*allowed, None}
    ]
    assert not wrong
    torch_too = [f.name for f in FILES if home(f) == "_checker" for d, _ in imports(f) if d.split(".")[0] == "torch"]
    assert not torch_too


def test_only_one_file_imports_ray():
    users = [str(f.relative_to(ROOT)) for f in FILES if any(d.split(".")[0] == "ray" for d, _ in imports(f))]
    assert set(users) <= {"executors/ray.py"}


def test_presentation_never_imports_torch_not_even_in_a_function():
    wrong = [
        f"{f.relative_to(ROOT)}: {d}"
        for f in FILES
        if LAYER.get(home(f)) == 4
        for d, _ in imports(f)
        if d.split(".")[0] == "torch"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "start",
    ["brittle", "brittle.report", "brittle.store", "brittle.cli.main", *(f"brittle.{m}" for m in sorted(RECORDS_ONLY))],
)
def test_records_and_help_are_read_without_anything_heavy(start):
    """Follow the imports made when a module is loaded, through every module of ours."""
    seen, todo = set(), [start]
    while todo:
        dotted = todo.pop()
        file = source(dotted)
        if file is None or file in seen:
            continue
        seen.add(file)
        for name, loaded in imports(file):
            assert not (loaded and name.split(".")[0] in HEAVY), (
                f"{start} loads {name} through {file.relative_to(ROOT)}"
            )
            todo += [name, name.rsplit(".", 1)[0]] if loaded and name.startswith("brittle") else []
    assert seen or start in ("brittle.report", "brittle.cli.main")


def source(dotted: str) -> Path | None:
    base = ROOT.joinpath(*dotted.split(".")[1:])
    return (
        next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)
        if dotted.startswith("brittle")
        else None
    )


def test_no_module_bears_a_public_name():
    below = {home(f) for f in FILES} | {p.name for p in ROOT.iterdir() if p.is_dir()}
    assert not below & set(brittle.__all__)


def test_the_reader_of_imports_sees_relative_and_hidden_ones(tmp_path, monkeypatch):
    file = ROOT / "bounds" / "__none__.py"
    text = "from ..attacks import pgd\ndef f():\n    import torch\n    from . import _concrete\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: text)
    imports.cache_clear()
    try:
        assert set(imports(file)) == {
            ("brittle.attacks.pgd", True),
            ("torch", False),
            ("brittle.bounds._concrete", False),
        }
    finally:
        imports.cache_clear()
