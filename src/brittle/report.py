"""``report.html``: one self-contained page from a run folder. Reads records only; opens offline and without JavaScript."""

import os
from pathlib import Path

from markupsafe import Markup

from brittle.discovery import Method, methods
from brittle.panels._html import environment, fill
from brittle.store import Run, load_run

TEMPLATES = Path(__file__).parent / "templates"
FAILED = "<h2>{{ name }}</h2><div class='doubts'><p>This section could not be drawn ({{ reason }}). The records are not affected.</p></div>"


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Render the report of a run folder into ``out`` (default: ``report.html`` in the folder) and return its path.

    The file appears whole or not at all. Errors: InputError where the folder is no run.
    """
    target = Path(folder) / "report.html" if out is None else Path(out)
    text = render(load_run(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(run: Run) -> str:
    """The page as text, a function of the run alone. A panel that fails becomes a section that says so."""
    sections = [(panel.name, html) for panel in panels() if (html := _draw(panel, run))]
    values = {
        "title": run.folder.resolve().name,
        "sections": sections,
        "subtitle": f"{', '.join(run.models)} · {run.plan.count:,} {'example' if run.plan.count == 1 else 'examples'} · {run.plan.effort} effort",
        "version": run.plan.brittle,
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    }
    return environment().from_string((TEMPLATES / "page.html").read_text(encoding="utf-8")).render(values)


def panels() -> list[Method]:
    """The panels in the order of the page: ours by the number in ``ABOUT.answers``, then those of installed packages."""
    rank = lambda m: int(m.about.answers) if m.about.answers.isdigit() else 10**6
    return sorted(methods("panels"), key=lambda m: (m.source != "brittle", rank(m), m.name))


def _draw(panel: Method, run: Run) -> Markup:
    try:
        return Markup(panel(run))
    except Exception as reason:  # a panel may come from anyone; the others must still be read
        return fill(FAILED, {"name": panel.name, "reason": f"{type(reason).__name__}: {reason}"})
