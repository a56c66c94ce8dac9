"""The report: a pure function of the records, self-contained, escaped, small, honest in its numbers and words."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan

import numpy as np
import pytest

from brittle import discovery, report
from brittle.discovery import Method
from brittle.panels import _data as data
from brittle.panels._data import Answers, Unit, at_scales, middle, survival
from brittle.panels._grade import grade, ratio
from brittle.panels._html import number, percent, series
from brittle.panels._picture import as_picture, png
from brittle.panels.curves import reach, typical_size
from brittle.panels.fragile import nearest
from brittle.panels.verdict import probability_sentence, radius_sentence
from fixtures_run import Sketch, check, finding, write_run

VOID = {"meta", "img", "br", "link", "input", "hr"}
CHECKS = (check("range"), check("gradients", "warn", "Gradients vanish; use the margin loss.", "3 %", "1 %"))
WHY = finding("steepness", {"step": [0, 1, 2], "margin": [2.0, inf, -0.5]}, ("step", "margin"), note="It is steep.")


class Reader(HTMLParser):
    """Collects the elements and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def made(lower, upper, status=None, kinds=("proved", "witnessed"), estimate=nan) -> Answers:
    """Answers with the given ends; kinds for all examples, "none" where an end says nothing."""
    count = len(lower)
    low, high = np.array(lower, float), np.array(upper, float)
    blank = np.full(count, nan)
    return Answers(
        np.arange(count), np.zeros(count, int), np.zeros(count, int), low, high, blank, np.full(count, estimate), blank, blank,
        blank, blank, tuple(kinds[0] if v > 0 else "none" for v in low), tuple(kinds[1] if np.isfinite(v) else "none" for v in high),
        ("",) * count, ("",) * count, tuple(status or ("ok",) * count),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("run") / "demo", Sketch(regions=("l2", "linf", "joint"), checks=CHECKS, findings=(WHY,))
    )


# ---- the page ----------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_every_section_is_there_in_order(run):
    page = report.render(run)
    read(page)
    assert "could not be drawn" not in page
    sections = re.findall(r'<section id="(\w+)">', page)
    built_in = [
        "verdict",
        "threat",
        "curves",
        "brackets",
        "noise",
        "health",
        "fragile",
        "findings",
        "costs",
        "appendix",
    ]
    assert [s for s in sections if s in built_in] == built_in


def test_the_page_is_byte_stable_and_a_function_of_the_records(run, tmp_path):
    first = report.write(run.folder)
    assert first == run.folder / "report.html"
    again = report.write(run.folder, tmp_path / "sub" / "other.html")
    assert first.read_bytes() == again.read_bytes() and list(again.parent.iterdir()) == [again]


def test_nothing_is_loaded_and_nothing_is_scripted(run):
    reader = read(report.render(run))
    assert "script" not in reader.seen and "link" not in reader.seen and "iframe" not in reader.seen
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "data", "action", "srcset"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:40])
    page = report.render(run)
    assert "@import" not in page and "url(" not in page and "http://" not in page and "https://" not in page


def test_a_hostile_name_is_shown_and_never_obeyed(tmp_path):
    evil = "<script>alert(1)</script>"
    hostile = replace(CHECKS[1] and Sketch(), models=("plain",), count=5)
    checks = (check(evil, "warn", evil, evil, evil),)
    findings = (finding("why", {evil: [evil, evil], "b": [1.0, 2.0]}, (evil, "b"), evil, evil),)
    run = write_run(tmp_path / "demo", replace(hostile, checks=checks, findings=findings))
    plan = replace(run.plan, effort=evil, specification={"specification": evil}, models={"plain": {"class": evil}})
    named = replace(run, plan=plan, sources={"command": evil, evil: evil}, environment={evil: evil}, key=evil)
    page = report.render(named)
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "could not be drawn" not in page and "script" not in read(page).seen


def test_a_hostile_model_name_is_escaped(tmp_path):
    evil = "<script>alert(1)<script>"
    run = write_run(tmp_path / "demo", Sketch(models=("plain",), count=5))
    renamed = replace(run, plan=replace(run.plan, models={evil: run.plan.models["plain"]}))
    vars(renamed)["samples"] = run.samples.with_columns(model=_literal(evil))  # cached_property keeps it
    vars(renamed)["checks"], vars(renamed)["findings"] = {evil: []}, {evil: {}}
    object.__setattr__(renamed, "points", None)
    for name in ("verdict", "threat", "curves", "brackets", "noise", "health", "costs"):
        html = discovery.method("panels", name)(renamed)
        assert "<script" not in html, name
    assert "&lt;script&gt;alert(1)" in discovery.method("panels", "verdict")(renamed)


def _literal(text):
    import polars

    return polars.lit(text)


@pytest.mark.parametrize(
    "sketch",
    [
        Sketch(regions=(), laws=("noise",), count=6),
        Sketch(laws=(), count=6),
        Sketch(certified=False, count=6),
        Sketch(found=False, count=6),
        Sketch(certified=False, found=False, count=6),
        Sketch(wrong=1.0, count=6),
        Sketch(wrong=0.0, count=1),
        Sketch(points=False, count=6),
        Sketch(shape=(3, 8, 8), count=6),
        Sketch(shape=(5,), count=6),
        Sketch(models=tuple(f"m{k}" for k in range(8)), count=4),
    ],
    ids=[
        "no regions",
        "no laws",
        "none certified",
        "none found",
        "neither",
        "all wrong",
        "one",
        "no points",
        "colour",
        "table",
        "8 models",
    ],
)
def test_empty_and_odd_runs_render_well(tmp_path, sketch):
    page = report.render(write_run(tmp_path / "demo", sketch))
    read(page)
    assert (
        "could not be drawn" not in page
        and "NaN" not in page
        and ">nan" not in page
        and ">None" not in page.replace("None were recorded", "")
    )


def test_an_interrupted_run_says_what_is_missing(tmp_path):
    run = write_run(tmp_path / "demo", Sketch(models=("plain",), count=60))
    (run.folder / "samples" / "plain-00001.parquet").unlink()
    page = report.write(run.folder).read_text()
    assert "Parts of this run that are missing or damaged: 1." in page and "could not be drawn" not in page


def test_ten_thousand_examples_stay_under_two_megabytes(tmp_path):
    sketch = Sketch(regions=("l2", "linf", "joint"), count=10_000, shape=(4,), checks=CHECKS, findings=(WHY,))
    file = report.write(write_run(tmp_path / "demo", sketch).folder)
    assert file.stat().st_size < 2_000_000


def test_many_models_and_incompressible_pictures_stay_under_two_megabytes(tmp_path):
    models = tuple(f"m{k}" for k in range(6))
    sketch = Sketch(models, ("l2", "linf", "joint"), ("noise", "ball"), count=80, shape=(3, 40, 65), checks=CHECKS)
    page = report.render(write_run(tmp_path / "demo", sketch))
    assert len(page.encode()) < 2_000_000 and page.count("<img") == 3 * 18


def test_the_report_imports_no_torch(run):
    code = f"import sys, brittle.report as r; r.write({str(run.folder)!r}); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_curves_are_the_shares_beyond_each_size(run):
    found = data.answers(run, "plain", "radius", "l2")
    stop = reach([found], Unit(1.0, "l2 size"))
    for end in (found.lower, found.upper):
        edges, levels = survival(end, stop)
        assert edges[0] == 0 and edges[-1] == stop and all(a < b for a, b in zip(edges, edges[1:], strict=False))
        for left, right, level in zip(edges, edges[1:], levels, strict=False):
            for s in (left, (left + right) / 2):
                assert level == pytest.approx(float((end > s).mean()), abs=1e-12)
    scales = np.linspace(0, stop, 17)
    assert at_scales(found.upper, scales) == pytest.approx([(found.upper > s).mean() for s in scales])


def test_the_table_of_the_curves_holds_the_same_numbers_as_the_run(run):
    html = str(discovery.method("panels", "curves")(run))
    certified, attacked = run.accuracy("plain", "l2", [0.4])
    row = re.search(
        r'<tr><th class="n">0\.4</th><td class="n">([^<]+)<span[^>]*>[^<]*</span></td><td class="n">([^<]+)<', html
    )
    assert row is not None and row[1].strip() == percent(certified[0]) and row[2].strip() == percent(attacked[0])


def test_sizes_are_scales_times_the_radius_of_a_single_ball(run):
    low = middle(data.answers(run, "plain", "radius", "linf").lower)
    assert f"below {number(0.1 * low)} can flip" in discovery.method("panels", "verdict")(run)


def test_the_middle_of_the_lower_ends_never_exceeds_that_of_the_upper_ends():
    lower, upper = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, inf])
    assert middle(lower) == middle(upper) == 2.0
    assert (lower >= 2).mean() >= 0.5 and (upper <= 2).mean() >= 0.5


def test_noise_is_drawn_at_its_typical_size_only_where_it_has_one(run):
    ball, gauss = {"x": {"p": 2}}, {"x": {"law": "Gaussian", "sigma": 0.1, "clip": None}}
    assert typical_size(run, ball, gauss) == pytest.approx(0.1 * 8)
    assert typical_size(run, {"x": {"p": "inf"}}, gauss) is None
    assert typical_size(run, {"x": {"p": "inf"}}, {"x": {"law": "UniformBall", "radius": 0.2, "p": "inf"}}) == 0.2
    assert typical_size(run, ball, {"x": {**gauss["x"], "clip": [0, 1]}}) is None


def test_the_nearest_witnesses_come_first_and_wrong_examples_never():
    found = made([0, 0.1, 0.1, 0.1, 0.2], [0.05, 0.5, inf, 0.3, 0.4], ["misclassified", "ok", "ok", "ok", "ok"])
    assert nearest(found, 2).tolist() == [3, 4] and len(nearest(found, 9)) == 3


def test_shares_never_round_to_none_or_all():
    assert [percent(v) for v in (0.0, 1.0, 0.004, 0.9999, 1e-9, 1 - 1e-9)] == [
        "0 %",
        "100 %",
        "0.4 %",
        "99.99 %",
        "< 0.001 %",
        "> 99.999 %",
    ]


def test_the_first_36_series_look_different():
    assert len({series(k) for k in range(36)}) == 36


# ---- words -------------------------------------------------------------------------------------------------------

L2, FLIP = Unit(1.0, "l2 size"), ("flip the answer", "flips the answer")


@pytest.mark.parametrize(
    "found, said",
    [
        (made([0.4, 0.41, 0.5], [0.5, 0.52, 0.6]), ["For half of the examples, no change with l2 size below 0.41 can flip the answer (proved)", "l2 size 0.52 flips the answer (witnessed)"]),
        (made([0.4], [0.5]), ["For the one example, no change", "0.5 flips"]),
        (made([0, 0, 0.1], [0.5, 0.6, 0.7]), ["Something is proved for only 1 of 3 examples", "0.6 flips"]),
        (made([0, 0], [inf, inf]), ["Nothing is proved, and no change that flips the answer was found for 2 of 2 examples"]),
        (made([0.1, 0.2, 0.3], [0.4, inf, inf]), ["below 0.2 can", "was found for 2 of 3 examples"]),
        (made([0.1, 0.2, 0.3], [1, 1, 1], kinds=("statistical", "witnessed")), ["(statistical, 95 %)"]),
        (made([0, 0], [0, 0], ["misclassified"] * 2), ["Every example is misclassified"]),
        (made([0, 0, 0.2], [0, 0, 0.3], ["misclassified", "misclassified", "ok"]), ["Half of the examples or more are misclassified"]),
        (made([], []), ["No answer was recorded"]),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_brackets_say_and_no_more(found, said):
    sentence = radius_sentence(found, L2, FLIP, 0.95)
    assert all(part in sentence for part in said), sentence


def test_the_sentence_on_noise_names_the_guarantee_of_the_end_it_quotes():
    found = made([0, 0, 0], [0.01, 0.02, 0.9], kinds=("statistical", "proved"), estimate=0.005)
    assert "probability at most 0.02 (proved)" in probability_sentence(found, FLIP[1], 0.95)
    weaker = made([0, 0, 0], [0.01, 0.02, 0.9], kinds=("statistical", "statistical"), estimate=0.005)
    assert "at most 0.02 (statistical, 95 %)" in probability_sentence(weaker, FLIP[1], 0.95)


def test_doubts_stand_before_every_number_of_a_model(run):
    html = str(discovery.method("panels", "verdict")(run))
    assert 0 < html.index("Gradients vanish") < html.index("For half of the examples")


def test_failed_checks_come_first_gravest_before_mild(tmp_path):
    checks = (check("fine"), check("mild", "note"), check("odd", "warn", "hm"), check("broken", "invalid", "no"))
    html = str(
        discovery.method("panels", "health")(
            write_run(tmp_path / "demo", Sketch(models=("m",), count=4, checks=checks))
        )
    )
    assert sorted(("broken", "odd", "mild", "fine"), key=lambda n: html.index(f"<b>{n}</b>")) == [
        "broken",
        "odd",
        "mild",
        "fine",
    ]


# ---- grades ------------------------------------------------------------------------------------------------------

OK, CLOSED, WIDE = check("a"), made([1.0, 2.0], [1.04, 2.08]), made([1.0, 2.0], [1.5, 3.0])
ATTACKED, SILENT = made([0, 0], [1.0, 2.0]), made([0, 0], [inf, inf])
CHANCE = made([0, 0], [0.1, 0.2], kinds=("none", "proved"))


@pytest.mark.parametrize(
    "letter, checks, radii, chances",
    [
        ("A", [OK], [CLOSED], []),
        ("A", [OK, check("n", "note")], [CLOSED, CLOSED], [CHANCE]),
        ("B", [OK], [made([1.0, 2.0], [1.06, 2.12])], []),
        ("B", [OK], [CLOSED, WIDE], []),
        ("B", [OK], [WIDE], [CHANCE]),
        ("B", [], [], [CHANCE]),
        ("C", [OK], [ATTACKED], []),
        ("B", [OK], [WIDE], [made([0], [0.1], kinds=("none", "statistical"))]),
        ("C", [OK], [WIDE, ATTACKED], []),
        ("C", [OK], [], [made([0], [0.1], kinds=("none", "statistical"))]),
        ("D", [check("w", "warn")], [CLOSED], []),
        ("D", [OK], [SILENT], []),
        ("D", [OK], [], []),
        ("D", [OK], [made([0], [0], ["misclassified"])], []),
        ("F", [check("i", "invalid")], [CLOSED], []),
        ("F", [check("s", "stop"), check("w", "warn")], [CLOSED], []),
        ("F", [OK], [made([2.0], [1.0])], []),
        ("A", [OK], [made([1.0 + 1e-12], [1.0])], []),
    ],
)
def test_grades(letter, checks, radii, chances):
    assert grade(checks, radii, chances).letter == letter


def test_the_ratio_is_the_median_over_correct_examples():
    assert ratio(made([0, 1, 1, 1], [0, 1.2, 1.4, inf], ["misclassified", "ok", "ok", "ok"])) == pytest.approx(1.4)
    assert ratio(SILENT) == inf


# ---- panels and pictures -----------------------------------------------------------------------------------------


def test_a_panel_and_a_diagnostic_of_another_package_appear(run, tmp_path, monkeypatch):
    body = 'from brittle.about import About\nABOUT = About(promise="a toy", reference="", answers="5")\n'
    (tmp_path / "toy_section.py").write_text(
        body + "def toy_section(run):\n    return f'<p>toy of {len(run.models)} models</p>'\n"
    )
    (tmp_path / "toy_broken.py").write_text(body + "def toy_broken(run):\n    raise KeyError('<b>')\n")
    (tmp_path / "steepness.py").write_text(body + "def steepness(run):\n    return '<p>my own steepness</p>'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("toy_section", "toy_broken", "steepness")
    toys = tuple(Method("panels", n, n, discovery._about(tmp_path / f"{n}.py"), "toys") for n in names)
    assert "It is steep." in report.render(run)
    monkeypatch.setattr(discovery, "_installed", lambda family: toys if family == "panels" else ())
    page = report.render(run)
    order = re.findall(r'<section id="(\w+)">', page)
    assert order[-3:] == ["steepness", "toy_broken", "toy_section"] and "toy of 2 models" in page
    assert "This section could not be drawn (KeyError: &#39;&lt;b&gt;&#39;)" in page
    assert "It is steep." not in page and "my own steepness" in page


def test_a_finding_is_a_sentence_a_plot_and_a_table(tmp_path):
    words = finding(
        "layers", {"layer": ["a", "b"], "gain": [1.0, 20000.0]}, ("layer", "gain"), doubt="Only two layers."
    )
    long = finding("long", {"k": list(range(5000)), "v": [0.5] * 5000}, ("k", "v"))
    run = write_run(tmp_path / "demo", Sketch(models=("m",), count=4, findings=(words, long, WHY, finding("bare", {}))))
    html = str(discovery.method("panels", "findings")(run))
    assert "Only two layers." in html and html.count("<svg class") == 3 and "4990 more rows" in html and "∞" in html
    assert len(html) < 60_000


def test_pictures_are_recognised_and_written_as_png():
    assert as_picture(np.zeros((1, 28, 28))).shape == (28, 28) and as_picture(np.zeros((3, 224, 224))).shape == (
        56,
        56,
        3,
    )
    assert as_picture(np.zeros((4, 2))) is None and as_picture(np.zeros(9)) is None
    from io import BytesIO

    from PIL import Image

    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    assert (np.asarray(Image.open(BytesIO(png(pixels)))) == pixels).all()
