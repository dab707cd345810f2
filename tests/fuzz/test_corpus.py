"""The corpus of the fuzzer, without the fuzzer: each input keeps the rule, and each valid one is
read.
"""

from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, Target

INPUTS = [(target, seed) for target in TARGETS.values() for seed in target.seeds()]


@pytest.mark.parametrize(
    ("target", "seed"), INPUTS, ids=[f"{target.name}/{seed.name}" for target, seed in INPUTS]
)
def test_an_input_of_the_corpus_is_read_or_refused_with_a_documented_error(
    target: Target, seed: Path
) -> None:
    read = target.check(seed.read_bytes())

    assert read is not seed.name.startswith("refused-")


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_target_refuses_input_of_another_kind(target: Target) -> None:
    assert target.check(b"\xff\0 no such thing\nREBUNDLE_NO__SUCH=\xff") is False


def test_every_folder_of_the_corpus_belongs_to_a_target() -> None:
    assert sorted(folder.name for folder in CORPUS.iterdir()) == sorted(TARGETS)
