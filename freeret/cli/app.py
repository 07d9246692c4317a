"""The command `freeret`: look inside a backbone, check it, retrieve with it, measure it.

Commands import what they need when they run, and check what was typed before they load a model.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from freeret.cli import evaluation, planning, probing, retrieval, serving, storing
from freeret.cli.output import complain, messages
from freeret.extras import missing
from probes.errors import FreeRetError

app = App(
    name="freeret",
    help="Look inside a language model, then retrieve with the same untouched weights.",
)
app.register_install_completion_command(
    help="Install completion of commands and options for the shell in use (bash, zsh or fish)."
)
for commands in (probing, storing, retrieval, planning, evaluation, serving):
    commands.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an expected error is one clear line and exit code 1."""
    try:
        with messages():
            app(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except (FreeRetError, OSError, CycloptsError) as error:
        complain(str(error))
        sys.exit(1)
    except ImportError as error:
        complain(missing(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
