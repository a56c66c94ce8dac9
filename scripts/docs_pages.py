"""Pages made from the source while the site is built: one per family of methods, one of the public names, one of the commands.

A hook of mkdocs; nothing is written into docs/. A method or public name without a docstring fails the build.
"""

import ast
import inspect
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import brittle
from brittle.discovery import FAMILIES, Method, methods


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the made pages in the navigation."""
    for entry in config.nav or []:
        if "Methods" in entry:
            entry["Methods"] = [{f.capitalize(): f"methods/{f}.md"} for f in FAMILIES if methods(f)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages to those of docs/."""
    pages = {"python.md": public_names(), "commands.md": commands()}
    pages |= {f"methods/{family}.md": family_page(family) for family in FAMILIES if methods(family)}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def family_page(family: str) -> str:
    """What a family promises, a table of its methods, and the docstring of each."""
    found = methods(family)
    rows = [f"| [{m.name}](#{m.name}) | {_norms(m)} | {m.about.promise} | {m.about.cost or '-'} |" for m in found]
    table = ["| method | norms | what it promises | passes per example |", "|---|---|---|---|", *rows]
    parts = [_section(m) for m in found]
    return "\n".join([f"# {family.capitalize()}", "", f"{FAMILIES[family].capitalize()}.", "", *table, "", *parts])


def public_names() -> str:
    """Every public name with its signature and docstring."""
    parts = ["# Python", "", "`import brittle as bt`; every name is imported when it is first used.", ""]
    for name in sorted(n for n in brittle.__all__ if n != "__version__"):
        value = getattr(brittle, name)
        parts += [f"## {name}", "", _code(_call(name, value)), "", _body(_docstring(value, f"brittle.{name}")), ""]
    return "\n".join(parts)


def commands() -> str:
    """What ``brittle COMMAND --help`` says, options as a table."""
    from typer.main import get_command

    from brittle.cli.main import app

    group = get_command(app)
    parts = ["# Command line", "", group.help or "", "", group.epilog or "", ""]
    for name, command in group.commands.items():
        rows = [f"| {_option(p)} | {_cell(getattr(p, 'help', '') or '')} |" for p in command.params]
        parts += [f"## brittle {name}", "", command.help or "", "", "| option | meaning |", "|---|---|", *rows, ""]
    parts += ["## Regions and noise", "", _code(textwrap.dedent(_module_docstring("brittle.cli._grammar")))]
    parts += ["", "## Models", "", _body(_function_docstring("brittle.sources.models", "load_model"))]
    parts += ["", "## Data", "", _body(_function_docstring("brittle.sources.data", "load_data"))]
    return "\n".join(parts)


def _call(name: str, value: object) -> str:
    if isinstance(value, type) and issubclass(value, Exception):
        return f"raise bt.{name}(...)"
    return f"bt.{name}{inspect.signature(value)}".replace("'", "")  # pyright: ignore[reportArgumentType]


def _section(method: Method) -> str:
    signature = _function(method.module, method.name)
    about = method.about
    facts = [
        f"- promise: {about.promise}",
        f"- moves: {', '.join(about.leaves)}",
        f"- runs by itself at effort: {about.effort or 'only when named'}",
        f"- reference: {about.reference}",
    ]
    call = f"{method.name}({ast.unparse(signature.args)})"
    text = ast.get_docstring(signature) or _missing(f"{method.module}.{method.name}")
    return "\n".join([f"## {method.name}", "", _code(call), "", _body(text), "", *facts, ""])


def _function(module: str, name: str) -> ast.FunctionDef:
    """The definition in the source text; importing every method would be slow and prove nothing more."""
    for node in reversed(ast.parse(_source(module)).body):  # the last one: overloads stand before it
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise PluginError(f"{module} has no function {name}: a method file holds the function of its name")


def _function_docstring(module: str, name: str) -> str:
    return ast.get_docstring(_function(module, name)) or _missing(f"{module}.{name}")


def _module_docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(_source(module))) or _missing(module)


def _source(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise PluginError(f"{module} has no source file")
    return Path(spec.origin).read_text(encoding="utf-8")


def _docstring(value: object, name: str) -> str:
    text = inspect.getdoc(value)
    made = (
        isinstance(value, type) and text is not None and text.startswith(f"{value.__name__}(")
    )  # by dataclass, says nothing
    return _missing(name) if not text or made else text


def _missing(name: str) -> str:
    raise PluginError(f"{name} has no docstring: say what it computes, what it guarantees, and give an example")


def _body(docstring: str) -> str:
    """A docstring as Markdown: prose as it is, aligned lists and examples as code."""
    text = re.sub(r":(?:func|class|mod):`~?([\w.]+)`", r"`\1`", docstring)
    return "\n\n".join(_paragraph(p) for p in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    aligned = re.search(r"\S {2,}\S", text) or re.search(r"^ {2,}\S", text, re.M)
    if text.lstrip().startswith(">>>") or aligned:
        return _code(text)
    return text.replace("``", "`").replace("*", r"\*").replace("|", r"\|").replace("<", "&lt;")


def _code(text: str) -> str:
    return f"```python\n{textwrap.dedent(text)}\n```" if ">>>" in text or "(" in text[:40] else f"```text\n{text}\n```"


def _option(parameter) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return f"`{' '.join(parameter.opts)}`"


def _norms(method: Method) -> str:
    return " ".join(f"{p:g}" for p in method.about.norms) or "-"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
