"""``torch.export`` archives, searched for anything that could run code before torch is allowed to open them.

``torch.export.load`` unpickles some members of an archive without restriction, evaluates symbolic shapes with ``sympify``
(which is ``eval``), looks operators up by dotted name, compiles guards and loads native libraries. Ordinary programs need
none of that. These are the doors known for torch 2.6 to 2.13; a program from a stranger still deserves a sandbox.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import torch
from torch import nn

from brittle.errors import InputError

# torch.ops names, symbolic-shape helpers, and arithmetic on sizes: all that a graph of tensors calls
_OPERATOR = re.compile(r"(torch\.ops(\.\w+){2,3}|torch\.sym_\w+|(_operator|math)\.[a-z]\w*)")
# a symbolic size as sympy prints it: calls of capitalised names, numbers, and quotes around symbol names only
_EXPRESSION = re.compile(r"(?!.*(__|lambda|\.\s*[A-Za-z_]))(\w|'\w+'|[\s+\-*/%(),.<>=!&|~])*")
_NAME = re.compile(r"[\w.]*")
_MEMBER = re.compile(
    r"(\.data/\w+|archive_format|archive_version|byteorder|version|models/[^/]+\.json|data/(weights|constants)/[^/]+"
    r"|data/sample_inputs/[^/]+\.pt|extra/[^/]+|serialized_[a-z_]+\.(json|pt))"
)
_OBJECTS = ("custom_obj_", "opaque_obj_")


def load_exported(path: Path, trust_pickle: bool = False) -> nn.Module:
    """The module of a program saved by ``torch.export.save``. Errors: InputError where the file is damaged or could run code."""
    content = path.read_bytes()
    if not trust_pickle:
        hazard = next(hazards(content, path.name), None)
        if hazard is not None:
            raise InputError(
                "model",
                "an exported program that loads without running code",
                f"{path.name}, where {hazard}",
                "export it again with torch.export.save, or add --trust-pickle if you made the file yourself",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on its own older archive formats
            program = torch.export.load(io.BytesIO(content))
            guards = {"check_guards": False} if "check_guards" in signature(program.module).parameters else {}
            return program.module(**guards)
    except Exception as reason:  # a damaged archive fails in many ways
        raise InputError(
            "model", f"{path} to be a torch.export archive", f"{type(reason).__name__}: {reason}", "save it again"
        ) from None


def hazards(content: bytes, name: str) -> Iterator[str]:
    """Plain words for everything in an archive that could run code when torch loads it."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = archive.namelist()
        damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as reason:
        raise InputError(
            "model", f"{name} to be a torch.export archive", str(reason), "save or copy it again"
        ) from None
    if damaged is not None or len(set(members)) < len(members):
        yield "a member is damaged or occurs twice"
    for member in members:
        yield from _member_hazards(member, archive.read(member))


def _member_hazards(member: str, content: bytes) -> Iterator[str]:
    inner = member if _MEMBER.fullmatch(member) else member.partition("/")[2]  # newer archives put all under one folder
    if not _MEMBER.fullmatch(inner):
        yield f"{member} is no part of a plain exported program"
    elif inner.endswith(".json"):
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError):
            yield f"{member} is not JSON"
        else:
            yield from _json_hazards(facts, member)
    elif inner.endswith(".pt") and content and not _plain_tensors(content):
        yield f"{member} is a pickle of more than tensors"


def _plain_tensors(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # refused or damaged: either way not to be loaded
        return False
    return True


def _json_hazards(value: object, member: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _json_hazards(item, member)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "use_pickle" and item is not False:
            yield f"{member} asks for an unrestricted unpickling"
        elif key == "path_name" and str(item).startswith(_OBJECTS):
            yield f"{member} holds a pickled object"
        elif key == "target" and isinstance(item, str) and not _OPERATOR.fullmatch(item):
            yield f"{member} calls {item!r}"
        elif key in ("name", "as_name") and isinstance(item, str) and not _NAME.fullmatch(item):
            yield f"{member} names a node {item!r}"
        elif key in ("expr_str", "range_constraints", "symbol_values"):
            yield from _expression_hazards(item, member)
        yield from _json_hazards(item, member)


def _expression_hazards(item: object, member: str) -> Iterator[str]:
    texts = [item] if isinstance(item, str) else list(item) if isinstance(item, dict) else []
    for text in texts:
        if not _EXPRESSION.fullmatch(text):
            yield f"{member} evaluates {text!r}"
