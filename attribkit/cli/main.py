"""The command `attribkit`, and how it ends. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import AttribkitError, InUse, Unwritable
from .demonstrate import demo
from .diagnose import diagnose
from .evaluate import evaluate
from .explain import explain
from .listing import list_
from .options import FAILED, INTERRUPTED, MISUSED
from .show import show


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="attribkit")
@click.option("--traceback", is_flag=True, help="Show where in the code an error came from.")
def attribkit(traceback: bool) -> None:
    """See what a vision model looked at, which methods tell the truth about it, and what it leans on and should not."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 0 when all is done, 1 failed, 2 misused, 3 done but for the files listed, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = attribkit.main(given, prog_name="attribkit", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(MISUSED)
    except AttribkitError as error:
        if "--traceback" in given:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED if isinstance(error, Unwritable | InUse) else MISUSED)
    except BrokenPipeError:  # who was reading has read enough, as in `attribkit list models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # a model's own code, or the disk, failed: one line; the place in the code is one option away
        if "--traceback" in given:
            raise
        click.echo(
            f"Error: {type(error).__name__}: {' '.join(str(error).split())} (attribkit --traceback COMMAND ... shows where)", err=True
        )
        sys.exit(FAILED)


for _command in (explain, evaluate, diagnose, show, list_, demo):
    attribkit.add_command(_command)
