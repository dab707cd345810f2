"""The command line: one module per verb, behind one error boundary (`app`).

Every verb acts on the bucket directly, by the same compare-and-swap as the daemon, whether or not one runs. Data goes
to standard output, prose to standard error (`output`); exit codes are in `failures`. Modules of verbs are imported when
their verb is called, so that help and completion stay fast.
"""

import sys

from daemon import __version__


def main() -> None:
    """The command `rebundle`: does what the arguments say and ends the process."""
    if sys.argv[1:] == ["--version"]:
        # Asked by scripts, over and over: it needs nothing of what a verb needs.
        print(__version__)  # noqa: T201
        return
    from daemon.cli.app import run_and_finish  # noqa: PLC0415  # importing this package must cost nothing

    run_and_finish()
