"""The command line: one module per verb, behind one error boundary (`app`).

Every verb acts on the bucket by itself, by the same compare-and-swap as the daemon, whether or not one runs. Data goes
to standard output, prose to standard error (`output`); exit codes are in `failures`. Modules of verbs are imported when
their verb is called, so that help and completion stay fast.
"""


def main() -> None:
    """The command `rebundle`: does what the arguments say and ends the process."""
    from daemon.cli.app import run_and_finish  # noqa: PLC0415  # importing this package must cost nothing

    run_and_finish()
