"""Objects out of a user's own Python file: ``file.py:object``."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from zlib import crc32

from brittle.errors import InputError


def load_object(path: Path, name: str, what: str) -> object:
    """The object ``name`` (dots allowed) of a Python file, which is run as an import of it would be.

    The folder of the file joins ``sys.path``, so that the file may import its neighbours and worker processes can import it.
    """
    if not path.is_file():
        raise InputError(what, "a Python file", f"{path}, which does not exist", "correct the path")
    module = _import(path.resolve(), what)
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise InputError(
                what, f"an object {name!r} in {path.name}", f"one of {_public(module)}", "correct the name"
            )
        value = getattr(value, part)
    return value


def split_object(spec: str, what: str) -> tuple[Path, str]:
    """``file.py:object`` as its two halves."""
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not name:
        raise InputError(what, "file.py:object", repr(spec), "name the object after a colon, for example net.py:model")
    return Path(path), name


def _import(path: Path, what: str) -> ModuleType:
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    name = path.stem
    found = importlib.util.find_spec(name) if name.isidentifier() and name not in sys.modules else None
    loaded = sys.modules.get(name)
    try:
        if loaded is not None and getattr(loaded, "__file__", None) == str(path):
            return loaded
        if found is not None and found.origin == str(path):
            return importlib.import_module(name)
        return _import_alone(
            path, f"brittle_file_{crc32(str(path).encode())}"
        )  # the plain name belongs to another module
    except InputError:
        raise
    except Exception as reason:  # the user's own code runs here and may raise anything
        raise InputError(
            what, f"{path.name} to run", f"{type(reason).__name__}: {reason}", "correct that file"
        ) from reason


def _import_alone(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("Python file", "something Python can import", path.name, "give it the suffix .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _public(module: ModuleType) -> str:
    names = [n for n in vars(module) if not n.startswith("_")]
    return ", ".join(names[:12]) or "nothing"
