"""``brittle``: the command, its exit codes, and what it says when something is wrong.

Exit codes: 0 all is well; 1 a verification or a gate failed; 2 the evidence is invalid (a health check stopped it, or something
raised an unforeseen error); 3 the command, a file or the data cannot be used; 130 interrupted. Nothing here imports torch:
``--help`` answers at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from brittle import __version__
from brittle.cli.audit import audit
from brittle.cli.compare import compare
from brittle.cli.doctor import doctor
from brittle.cli.gate import gate
from brittle.cli.harden import harden
from brittle.cli.list import list_methods
from brittle.cli.report import report
from brittle.cli.reproduce import reproduce
from brittle.cli.show import show
from brittle.cli.spectrum import spectrum
from brittle.cli.verify import verify
from brittle.errors import BracketError, InputError

OK, FAILED, INVALID, USAGE, INTERRUPTED = 0, 1, 2, 3, 130
RESUME = "interrupted; what was finished is kept, the same command goes on from there"

app = typer.Typer(
    name="brittle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"auto_envvar_prefix": "BRITTLE", "help_option_names": ["-h", "--help"]},
    help="How brittle is your network, why, and what cures it? Every answer is a bracket: proved below, witnessed above.",
    epilog="Every option has an environment variable: BRITTLE_AUDIT_SEED=1 is brittle audit --seed 1. "
    "Exit codes: 0 fine, 1 verification or gate failed, 2 invalid evidence, 3 usage or input error.",
)
for name, command in (
    ("doctor", doctor), ("audit", audit), ("show", show), ("report", report), ("verify", verify),
    ("compare", compare), ("gate", gate), ("harden", harden), ("spectrum", spectrum), ("reproduce", reproduce), ("list", list_methods),
):  # fmt: skip
    app.command(name)(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"brittle {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the entry point ``brittle`` exits with it."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        code = app(given, standalone_mode=False, prog_name="brittle", obj=given)
        sys.stdout.flush()
        return _say(RESUME, INTERRUPTED) if code == INTERRUPTED else int(code or OK)
    except InputError as problem:
        return _say(str(problem), USAGE)
    except BracketError as problem:
        return _say(str(problem), INVALID)
    except (KeyboardInterrupt, typer.Abort):
        return _say(RESUME, INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, for example `brittle list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as problem:
        full = problem.errno == errno.ENOSPC
        return _say(
            f"{problem}; {'free some space and run the same command again' if full else 'check the path'}", USAGE
        )
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # Click, wherever Typer keeps its copy, has it: a usage error
            traceback.print_exc()
            return _say("an error in brittle, in a method from another package, or in the model: no evidence", INVALID)
        context = getattr(problem, "ctx", None)
        hint = f"; see {context.command_path} --help" if context is not None else ""
        return _say(f"{problem.format_message().rstrip('.')}{hint}", USAGE)  # pyright: ignore[reportAttributeAccessIssue]


def _say(text: str, code: int) -> int:
    print(f"brittle: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
