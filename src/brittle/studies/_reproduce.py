"""Run one study into a folder: its cells, then ``study.json``."""

from pathlib import Path

from brittle.discovery import check_options, method
from brittle.errors import InputError
from brittle.files import locked, read_json, write_json
from brittle.studies._cells import Cells
from brittle.studies._study import Study

RECORD = "study.json"


def reproduce(
    name: str, out: str | Path, *, full: bool = False, seed: int = 0, workers: int = 1, show: bool = True
) -> Study:
    """The study ``name``, resumed from the cells that ``out`` holds already.

    full : the sizes of the paper and real data, instead of the default on embedded data.
    workers : processes of one thread each; the numbers do not depend on how many.
    """
    study = method("studies", name)
    check_options(study.function, {"full": full, "seed": seed})
    folder = Path(out)
    with locked(folder):
        cells = Cells(folder, workers, show)
        done = study(cells, full=full, seed=seed)
        spent = {"seconds": round(cells.seconds(), 1), "processor seconds": round(cells.processor(), 1)}
        settings = {"full": full, "seed": seed, **spent, **done.settings}
        write_json(folder / RECORD, {"name": name, **done.facts(), "settings": settings})
    return load_study(folder)


def load_study(folder: str | Path) -> Study:
    """The study in a folder that :func:`reproduce` wrote. Errors: InputError where there is none."""
    facts = read_json(Path(folder) / RECORD)
    if facts is None:
        raise InputError(f"folder {folder}", f"one with {RECORD}", "none", "run brittle reproduce NAME --out FOLDER")
    return Study.of(facts)
