"""Data out of what a user types: arrays, a table, a folder of images, a Python file, scikit-learn's digits."""

from pathlib import Path

from brittle.errors import InputError
from brittle.sources.batch import LABELS, Data, as_data, first
from brittle.sources.python_file import load_object, split_object

GRAMMAR = "file.npz, file.parquet, a folder of class folders of images, file.py:object, or sklearn:digits[test]"


def load_data(spec: str, limit: int | None = None) -> Data:
    """Inputs and labels that ``spec`` names; the first ``limit`` of them.

    spec   ``file.npz``             arrays "x" and "labels" (or "label", "y", "target"); pickled arrays are refused
           ``file.parquet``         a column "labels" (or "label", "y", "target"), all others are features, float32 (N, D)
           ``folder``               one sub-folder per class, class numbers in the order of the names; pixels / 255, (N, C, H, W)
           ``file.py:object``       a pair, a mapping, a Dataset or a DataLoader, or a function without arguments that returns one
           ``sklearn:digits``       real digits, see :func:`brittle.sources.digits.digits`; ``sklearn:digits[train,image]``

    Errors: InputError that names the file, what was expected and what to do. Nothing is read beyond what the limit needs,
    where the form allows it.

    >>> load_data("sklearn:digits[test]", limit=3).x.shape
    torch.Size([3, 64])
    """
    if limit is not None and limit < 1:
        raise InputError("limit", "a number >= 1", limit, "ask for at least one example")
    if spec.startswith("sklearn:"):
        return first(_scikit_learn(spec), limit)
    if ".py:" in spec:
        return _from_python(spec, limit)
    path = Path(spec)
    if not path.exists():
        raise InputError("data", GRAMMAR, f"{spec!r}, which does not exist", "correct the path")
    if path.is_dir():
        from brittle.sources.images import load_images

        return load_images(path, limit)
    if path.suffix.lower() == ".npz":
        return first(_arrays(path), limit)
    if path.suffix.lower() == ".parquet":
        return first(_table(path), limit)
    raise InputError("data", GRAMMAR, repr(spec), "write it in one of these forms")


def _scikit_learn(spec: str) -> Data:
    from brittle.sources.digits import digits_of

    name, _, options = spec.removeprefix("sklearn:").partition("[")
    if name != "digits" or (options and not options.endswith("]")):
        raise InputError(
            "data", "sklearn:digits, sklearn:digits[train] or sklearn:digits[test,image]", repr(spec), "choose one"
        )
    return digits_of(options.removesuffix("]"))


def _from_python(spec: str, limit: int | None) -> Data:
    path, name = split_object(spec, "data")
    value = load_object(path, name, "data")
    if callable(value) and not hasattr(value, "__getitem__") and not hasattr(value, "__iter__"):
        try:
            value = value()
        except Exception as reason:  # the user's own code runs here and may raise anything
            raise InputError(
                "data", f"{spec} to return data", f"{type(reason).__name__}: {reason}", "correct it"
            ) from reason
    return as_data(value, limit, f"data {spec}")


def _arrays(path: Path) -> Data:
    import io
    import zipfile
    import zlib

    import numpy as np

    try:
        # from memory: numpy leaves the file open when it is damaged
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as reason:
        raise InputError(
            "data",
            f"{path} to be a whole .npz of plain arrays",
            f"{type(reason).__name__}: {reason}",
            "save or copy it again",
        ) from None
    keys = [k for k in arrays if k in LABELS or k == "x"]
    if "x" in arrays and any(k in LABELS for k in keys):
        arrays = {k: arrays[k] for k in keys}  # what else the file holds is not input
    return as_data(arrays, None, f"data {path.name}")


def _table(path: Path) -> Data:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as reason:
        raise InputError(
            "data", f"{path} to be a whole Parquet file", f"{type(reason).__name__}: {reason}", "save or copy it again"
        ) from None
    column = next((name for name in LABELS if name in frame.columns), None)
    if column is None or frame.width < 2:
        raise InputError(
            "data",
            f"a label column named {' or '.join(LABELS)}, and features",
            f"the columns {frame.columns[:8]}",
            "rename it",
        )
    for name, kind in frame.schema.items():
        if not (kind.is_numeric() or kind == pl.Boolean):
            raise InputError("data", f"numbers in column {name!r}", kind, "encode it as numbers")
        if frame[name].null_count():
            raise InputError(
                "data", f"no missing values in column {name!r}", f"{frame[name].null_count()}", "fill or drop them"
            )
    features = frame.drop(column).cast(pl.Float32).to_numpy()
    return as_data((features.copy(), frame[column].to_numpy().copy()), None, f"data {path.name}")
