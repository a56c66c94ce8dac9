"""Run the Python examples of Markdown files and compare what they print with the text block that follows each.

    python scripts/check_readme.py README.md docs/index.md

Every ```python block runs, in a fresh namespace and an empty folder; where a ```text block comes directly after it, the
printed output must be equal to it. Exit code 1 and a diff where it is not.
"""

import contextlib
import difflib
import io
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<printed>.*?)^```$)?", re.M | re.S)


def main(names: list[str]) -> int:
    """The exit code: 0 where every example runs and prints what the page says, and at least one page says something."""
    files = [Path(name).resolve() for name in names]
    results = [(file, *result) for file in files for result in check(file.read_text(encoding="utf-8"))]
    for file, line, problem in results:
        if problem:
            print(f"{file.name}, example in line {line}:\n{problem}", file=sys.stderr)
    failed = sum(bool(problem) for _, _, problem in results)
    print(f"examples: {len(results)} ran, {failed} failed")
    return 1 if failed or not results else 0


def check(text: str) -> list[tuple[int, str]]:
    """(line, what is wrong or "") of every example of a page."""
    return [(text.count("\n", 0, m.start()) + 1, run(m["code"], m["printed"])) for m in BLOCK.finditer(text)]


def run(code: str, expected: str | None) -> str:
    """What is wrong with an example: the traceback, a diff, or nothing."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "example", "exec"), {"__name__": "__main__"})
        except Exception:
            return traceback.format_exc()
    if expected is None or printed.getvalue() == expected:
        return ""
    return "".join(
        difflib.unified_diff(expected.splitlines(True), printed.getvalue().splitlines(True), "page", "printed")
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
