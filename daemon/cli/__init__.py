"""The command line: one module per command, behind one error boundary (`app`).

Every command works on the bucket directly, with the same compare-and-swap as the daemon. It does
not matter whether a daemon is running. Data goes to standard output, messages to standard error
(`output`); `failures` has the errors and their exit codes. The module of a command is imported when
the command is called, which keeps help and completion fast.
"""

import sys

from daemon import __version__


def main() -> None:
    """The console script `rebundle`: runs the command that the arguments name, then exits."""
    if sys.argv[1:] == ["--version"]:
        # Scripts call this often, so it imports nothing.
        print(__version__)  # noqa: T201
        return
    from daemon.cli.app import run_and_finish  # noqa: PLC0415  # importing this package must cost nothing

    run_and_finish()
