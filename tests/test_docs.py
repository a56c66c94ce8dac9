"""The pages that are made from the source, and the examples that readers copy."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_is_documented() -> None:
    pages = _script("docs_pages")
    for family in pages.FAMILIES:
        text = pages.family_page(family)
        assert all(f"## {m.name}\n" in text and m.about.promise in text for m in pages.methods(family))


def test_every_public_name_is_documented() -> None:
    import brittle

    text = _script("docs_pages").public_names()
    assert all(f"## {name}\n" in text for name in brittle.__all__ if name != "__version__")


def test_every_command_and_option_is_documented() -> None:
    text = _script("docs_pages").commands()
    for words in ("## brittle audit", "## brittle verify", "--trust-pickle", "gaussian:SIGMA", "weights.safetensors@"):
        assert words in text


def test_a_missing_docstring_fails_the_build() -> None:
    from mkdocs.exceptions import PluginError

    def silent() -> None: ...

    with pytest.raises(PluginError, match="has no docstring"):
        _script("docs_pages")._docstring(silent, "brittle.silent")


def test_docstrings_become_markdown() -> None:
    body = _script("docs_pages")._body("Of :func:`a.b`, ``x`` * 2.\n\np    the norm\nq    another\n\n>>> 1 + 1\n2")
    assert body == "Of `a.b`, `x` \\* 2.\n\n```text\np    the norm\nq    another\n```\n\n```python\n>>> 1 + 1\n2\n```"


def test_an_example_is_run_and_its_output_compared() -> None:
    check = _script("check_readme").check
    assert check("```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n") == [(1, "")]
    assert check("# page\n\n```python\nx = 1\n```\n") == [(3, "")]
    (line, problem), *_ = check("```python\nprint(1 + 1)\n```\n```text\n3\n```\n")
    assert line == 1 and "-3" in problem and "+2" in problem
    assert "ZeroDivisionError" in check("```python\n1 / 0\n```\n")[0][1]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_pages_name_only_commands_that_exist(page: str) -> None:
    import re

    from typer.main import get_command

    from brittle.cli.main import app

    text = (ROOT / page).read_text(encoding="utf-8")
    known = set(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert {c for c in re.findall(r"^(?:\.venv/bin/)?brittle (\w+)", text, re.M)} <= known
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"^make ([\w-]+)", text, re.M)) <= set(targets)


def test_the_makefile_needs_nothing_installed() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "make demo" in done.stdout and "make test" in done.stdout
    assert not {"http://", "https://", "--index-url"} & set((ROOT / "Makefile").read_text(encoding="utf-8").split())
    assert sys.version_info >= (3, 11)
