"""The panel of the diagnostic subspace, from a record."""

from types import SimpleNamespace

from brittle.panels.subspace import subspace


def run(columns, note="A median 40 % points off."):
    found = {"columns": columns, "note": note, "threshold": "principal components", "value": "dimension 3: share 0.4"}
    return SimpleNamespace(models=("net",), findings={"net": {"subspace": found}})


def test_bars_reference_lines_and_the_gain_are_drawn():
    columns = {
        "share": [0.4, 0.1, None], "chance": [0.9] * 3, "share_at_init": [0.7] * 3, "removable_gain": [1.29, 1.05, None],
        "on_radius": [1.0, 2.0, None], "off_radius": ["inf", "inf", None], "radius": [0.5, 0.9, None], "ratio": [1.01, 0.99, None],
    }  # fmt: skip
    html = subspace(run(columns))
    assert html.count("<rect") == 2 and "untrained copies" in html and "chance" in html
    assert 'at most</th><td class="n">5 %' in html and "∞" in html and "dimension 3" in html


def test_nothing_measured_is_said_and_markup_is_escaped():
    html = subspace(run({}, "<script>not applicable"))
    assert "&lt;script&gt;" in html and "<svg" not in html
    assert subspace(SimpleNamespace(models=("net",), findings={"net": {}})) == ""
