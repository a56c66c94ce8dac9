"""``brittle.verify``: an honest run passes; every forgery is named."""

import shutil
from math import inf

import numpy as np
import polars
import pytest
import torch
from safetensors.numpy import load
from torch import nn

import brittle as bt
from audited import LAWS, QUIET, audit, mlp
from brittle.errors import InputError
from brittle.records import Part
from brittle.verifier import verify

PART = "model-00000"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "run"
    audit(folder, laws=LAWS, chunk=6)
    return folder


@pytest.fixture
def forged(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "run")


def rewrite(folder, rows=None, **tensors):
    """Change records the way a forger would: consistently, with all digests renewed."""
    from brittle import store

    run = store.load_run(folder)
    parts = {k: load((folder / k / f"{PART}.safetensors").read_bytes()) for k in ("points", "proofs")}
    for kind, change in tensors.items():
        change(parts[kind])
    frame = polars.read_parquet(folder / "samples" / f"{PART}.parquet")
    frame = frame if rows is None else rows(frame)
    store.write_part(
        folder,
        Part("model", 0, 0, run.plan.count),
        frame.to_dict(as_series=False),
        parts["points"],
        parts["proofs"],
        {},
    )


def scaled(column, factor, name="l2"):
    hit = (polars.col("name") == name) & (polars.col(column) > 0) & polars.col(column).is_finite()
    return lambda frame: frame.with_columns(
        polars.when(hit).then(polars.col(column) * factor).otherwise(polars.col(column)).alias(column)
    )


def test_an_honest_run_passes(honest):
    answer = verify(honest, *mlp())
    assert answer.passed and answer.witnesses >= 6 and answer.proofs >= 6 and answer.intervals == 6
    assert repr(answer).startswith("Verification(passed: ")


def test_models_and_data_must_be_given_and_be_those_of_the_plan(honest):
    module, x, labels = mlp()
    with pytest.raises(InputError, match="pass models, x and labels"):
        verify(honest)
    with torch.no_grad():
        module[0].weight[0, 0] *= -1
    assert any("weights" in f for f in verify(honest, module, x, labels).failures)
    module = mlp()[0]
    assert any("labels" in f for f in verify(honest, module, x, labels.flip(0)).failures)
    assert "FAILED" in repr(answer := verify(honest, module, x, labels.flip(0))) and answer.failures[0] in repr(answer)
    assert any("x is not" in f for f in verify(honest, module, x + 1e-6, labels).failures)
    assert any("not given" in f for f in verify(honest, {"other": module}, x, labels).failures)
    bent = nn.Sequential(module[0], nn.LeakyReLU(0.1), module[2])
    assert any("code" in f for f in verify(honest, bent, x, labels).failures)


def test_an_inflated_lower_end_is_more_than_its_proof(forged):
    rewrite(forged, scaled("lower", 1.001))
    answer = verify(forged, *mlp())
    assert not answer.passed and all("more than its proof speaks of" in f for f in answer.failures)


def test_an_inflated_proof_scale_does_not_prove(forged):
    def grow(proofs):
        proofs["radius/l2/scale"] = proofs["radius/l2/scale"] * 1.05

    rewrite(forged, scaled("lower", 1.05), proofs=grow)
    assert any("gives a margin of only" in f for f in verify(forged, *mlp()).failures)


def test_slopes_of_another_example_prove_nothing(forged):
    def swap(proofs):
        for name in [n for n in proofs if n.startswith("radius/l2/") and not n.endswith("scale")]:
            proofs[name] = np.ascontiguousarray(proofs[name][::-1])

    rewrite(forged, proofs=swap)
    failures = verify(forged, *mlp()).failures
    assert failures and all("l2" in f and "gives a margin" in f for f in failures)


def test_wild_slopes_and_missing_arrays_fail(forged):
    def wild(proofs):
        for name in [n for n in proofs if n.endswith("lower_slope")]:
            proofs[name] = np.full_like(proofs[name], 1.5)

    rewrite(forged, proofs=wild)
    assert any("gives a margin" in f for f in verify(forged, *mlp()).failures)
    rewrite(forged, proofs=lambda proofs: [proofs.pop(n) for n in list(proofs)])
    assert not verify(forged, *mlp()).passed


def test_a_smaller_upper_end_is_not_that_of_its_witness(forged):
    rewrite(forged, scaled("upper", 0.999))
    assert any("its witness has size" in f for f in verify(forged, *mlp()).failures)


def test_a_witness_one_ulp_outside_the_range_is_found(forged):
    def move(points):
        name = "radius/linf/x"
        points[name] = points[name].copy()
        points[name][:, 0] = np.nextafter(np.float32(0), np.float32(-1))

    rewrite(forged, points=move)
    assert any("leaves its range" in f for f in verify(forged, *mlp()).failures)


def test_a_witness_that_is_the_clean_point_is_no_witness(forged):
    def clean(points):
        points["radius/l2/x"] = points["clean/x"].copy()

    rewrite(forged, points=clean)
    assert any("is not misclassified" in f for f in verify(forged, *mlp()).failures)


def test_an_invented_probability_is_drawn_again(forged):
    invent = lambda frame: frame.with_columns(
        *[polars.when(polars.col("name") == "noise").then(value).otherwise(polars.col(c)).alias(c)
          for c, value in (("lower", 0.90), ("upper", 0.95), ("interval_lower", 0.90), ("interval_upper", 0.95))]
    )  # fmt: skip
    rewrite(forged, invent)
    assert any("the probability disagrees" in f for f in verify(forged, *mlp()).failures)


@pytest.mark.parametrize("kind", ["samples", "points", "proofs"])
def test_a_truncated_or_missing_file_is_named(forged, kind):
    file = next((forged / kind).glob(f"{PART}.*"))
    file.write_bytes(file.read_bytes()[:-20])
    assert any(f.startswith(f"part {PART}") for f in verify(forged, *mlp()).failures)
    file.unlink()
    assert any("absent; an audit that was interrupted goes on" in f for f in verify(forged, *mlp()).failures)


@pytest.mark.parametrize("kind", ["samples", "points"])
def test_the_parts_beside_a_damaged_one_are_still_verified(tmp_path, kind):
    audit(tmp_path / "run", laws=LAWS)
    file = next((tmp_path / "run" / kind).glob("model-00001.*"))
    file.write_bytes(file.read_bytes()[:-20])
    answer = verify(tmp_path / "run", *mlp())
    assert len(answer.failures) == 1 and answer.failures[0].startswith("part model-00001: ")
    assert answer.intervals == 4 and answer.witnesses >= 4


def test_rows_of_other_examples_are_named(forged):
    rewrite(forged, lambda frame: frame.with_columns(polars.col("example") + 1))
    assert any("5 rows of l2 for 6 examples" in f for f in verify(forged, *mlp()).failures)


def test_a_changed_plan_is_named(forged):
    text = (forged / "run.json").read_text()
    (forged / "run.json").write_text(text.replace('"radius": 1.0', '"radius": 2.0'))
    assert any("digest of the plan" in f for f in verify(forged, *mlp()).failures)


def test_an_operation_unknown_to_the_checker_is_never_skipped(tmp_path, monkeypatch):
    from brittle._checker import affine

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()[0]

        def forward(self, x):
            return self.inner(x) - 0.5

    audit(tmp_path / "run", Shifted(), regions={"l2": bt.Ball(p=2, radius=1.0)})
    module, x, labels = Shifted(), *mlp()[1:]
    assert verify(tmp_path / "run", module, x, labels).passed
    monkeypatch.delitem(affine.OTHERS, "sub")
    answer = verify(tmp_path / "run", module, x, labels)
    assert not answer.passed and not answer.failures and all(u.endswith("not checked: sub") for u in answer.unchecked)
    assert verify(tmp_path / "run", module, x, labels, allow_unchecked=True).passed


def test_counts_joint_regions_and_ranges_by_feature(tmp_path):
    module, x, labels = mlp()
    regions = {
        "l0": bt.Ball(p=0, radius=1, low=0, high=1),
        "joint": {"x": bt.Ball(p=inf, radius=0.01, low=0, high=1), "0.weight": bt.Ball(p=inf, radius=0.01)},
        "box": bt.Ball(p=2, radius=1.0, low=torch.zeros(6), high=torch.linspace(1, 2, 6)),
    }
    bt.audit(module, x, labels, regions, out=tmp_path / "run", **{**QUIET, "chunk": 6})
    answer = verify(tmp_path / "run", module, x, labels)
    assert not answer.failures and all("box" in u and "pass regions=" in u for u in answer.unchecked)
    assert verify(tmp_path / "run", module, x, labels, regions={"box": regions["box"]}).passed


def fog(x, generator):
    return x + 0.2 * torch.rand((), generator=generator, dtype=x.dtype)


def test_every_law_is_drawn_again_and_functions_must_be_given(tmp_path):
    laws = {
        "fog": bt.Sampler(fog),
        "features": bt.Gaussian(torch.linspace(0.1, 0.3, 6)),
        "pixels": bt.Replace(2),
        "weights": {"0.weight": bt.Gaussian(0.1), "x": bt.UniformCube(0.1)},
    }
    audit(tmp_path / "run", regions={}, laws=laws, chunk=6)
    answer = verify(tmp_path / "run", *mlp())
    assert not answer.passed and not answer.failures and answer.intervals == 18
    assert len(answer.unchecked) == 1 and "the law Sampler of 'x'; pass laws=" in answer.unchecked[0]
    given = verify(tmp_path / "run", *mlp(), laws={"fog": laws["fog"]})
    assert given.passed and given.intervals == 24
    other = verify(tmp_path / "run", *mlp(), laws={"fog": bt.Sampler(lambda x, g: x, name="fog")})
    assert "not the one recorded" in other.unchecked[0]
