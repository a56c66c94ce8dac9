"""The report in a real browser: headless Chromium draws it, at several widths, light and dark, without a network or a script."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from brittle import report
from fixtures_run import Sketch, check, write_run

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
SCHEME = {"light": "1", "dark": "0"}  # blink::mojom::PreferredColorScheme


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip(
            "The browser test did NOT run: no Chromium found. Install Debian's package chromium and run it again."
        )
    checks = (check("range"), check("gradients", "warn", "Gradients vanish; use the margin loss."))
    run = write_run(tmp_path_factory.mktemp("run") / "demo", Sketch(count=40, checks=checks))
    return report.write(run.folder)


def chromium(page: Path, profile: Path, *options: str) -> str:
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def screenshot(page: Path, folder: Path, width: int, scheme: str) -> np.ndarray:
    from PIL import Image

    target = folder / f"{scheme}-{width}.png"
    size, colours = f"--window-size={width},1400", f"--blink-settings=preferredColorScheme={SCHEME[scheme]}"
    chromium(page, folder / f"profile-{scheme}-{width}", size, colours, f"--screenshot={target}")
    return np.asarray(Image.open(target).convert("RGB")).astype(float)


def test_the_browser_keeps_the_page_as_written_and_draws_every_picture(page, tmp_path):
    document = chromium(page, tmp_path / "profile", "--dump-dom", "--virtual-time-budget=2000")
    written = page.read_text(encoding="utf-8")
    for tag in ("<section", "<svg", "<table", "<img", "<polygon", "<details"):
        assert document.count(tag) == written.count(tag) > 0, tag


@pytest.mark.parametrize("width, scheme", [(1200, "light"), (1200, "dark"), (500, "light")])
def test_the_page_is_drawn_light_and_dark_wide_and_narrow(page, tmp_path, width, scheme):
    pixels = screenshot(page, tmp_path, width, scheme)
    assert pixels.shape[1] == width
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    assert ground.min() > 240 if scheme == "light" else ground.max() < 40
    assert (np.abs(pixels - ground).max(-1) > 100).mean() > 0.01  # there is writing on it
    edge = pixels[:, -8:].reshape(-1, 3)
    assert (np.abs(edge - ground).max(-1) < 30).mean() > 0.99  # and none of it runs off the side


def test_it_prints(page, tmp_path):
    target = tmp_path / "report.pdf"
    chromium(page, tmp_path / "profile", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    data = target.read_bytes()
    assert data.startswith(b"%PDF") and 2 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page/") <= 30
