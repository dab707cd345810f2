"""The process that fuzzes one target, under atheris.

python -m tests.fuzz.instrumented TARGET [libFuzzer's flags]
"""

import sys

import atheris

with atheris.instrument_imports(include=["daemon", "events", "renderers"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz import mutations

target = TARGETS[sys.argv.pop(1)]
change = getattr(mutations, f"of_{target.form}")


def check(data: bytes) -> None:
    """Without a result, because libFuzzer would take it for a command."""
    target.check(data)


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """One mutation. Atheris installs its function at its start, so it is looked up each time."""
    return change(data, longest, seed, atheris.Mutate)


atheris.Setup(sys.argv, check, custom_mutator=mutate)
atheris.Fuzz()
