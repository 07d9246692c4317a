"""The command `freeret`: look inside a backbone, check it, retrieve with it, evaluate it.

Commands import what they need when they run, and check what was typed before they load a model.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from freeret.cli import evaluation, planning, probing, retrieval, serving, storing
from freeret.cli.card import card
from freeret.cli.output import complain, messages
from freeret.cli.results import table
from freeret.extras import missing
from probes.errors import FreeRetError

app = App(
    name="freeret",
    help="Look inside a language model, then retrieve with the same untouched weights.",
    suppress_keyboard_interrupt=False,  # `main` says what was kept
)
app.register_install_completion_command(
    help="Install completion of commands and options for the shell in use (bash, zsh or fish)."
)
app.command(evaluation.evaluate, name="eval")
for command in (
    *(probing.probe, probing.plot, probing.compare_reports, probing.check, probing.lens),
    *(storing.index, storing.fit, storing.delete, storing.export, storing.info),
    *(retrieval.search, retrieval.answer, retrieval.demo),
    *(planning.models, planning.estimate),
    *(evaluation.compare, evaluation.ablate, evaluation.scenes, table, card),
    serving.serve,
):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. An expected error is one line on standard error and exit code 1; Ctrl-C is
    one line that says what was kept, and exit code 130.

    Args:
        arguments: The command line without the program's name; by default that of the process.
    """
    try:
        with messages():
            app(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except (FreeRetError, OSError, CycloptsError) as error:
        complain(str(error))
        sys.exit(1)
    except ImportError as error:
        complain(missing(error))
        sys.exit(1)
    except KeyboardInterrupt as stop:
        complain(str(stop) or "interrupted")
        sys.exit(130)
