"""What the gate may skip: only an unchanged model with unchanged bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renderers.gate.incremental import (
    NOTHING,
    Cutting,
    PassedBundle,
    Run,
    cut,
    end_of_line,
    line_at,
    runs,
)
from renderers.gate.parsers import Unreadable
from tests.builders import make_model

_MODELS = {name: make_model(name) for name in "abcdefgh"}
_CHANGED = {name: make_model(name, version="2") for name in "abcdefgh"}

bundles = st.lists(st.sampled_from("abcdefgh"), unique=True).flatmap(
    lambda names: st.tuples(
        *(st.sampled_from([_MODELS[name], _CHANGED[name]]) for name in sorted(names))
    )
)


def lines_of(models):
    return b"".join(f"{model.id} {model.version}\n".encode() for model in models)


@given(bundles, bundles)
def test_runs_cover_all_models_and_give_their_old_places(models, before):
    steps = runs(models, before)

    covered = [index for step in steps for index in range(step.first, step.first + step.count)]
    assert covered == list(range(len(models)))
    for step in steps:
        for offset in range(step.count):
            model = models[step.first + offset]
            if step.before is None:
                assert step.count == 1
                assert model not in before
            else:
                assert before[step.before + offset] == model


@given(bundles, bundles)
def test_an_unchanged_model_is_cut_as_before_and_not_checked_again(models, before):
    earlier, _ = cut(lines_of(before), 0, runs(before, ()), None, end_of_line)

    cutting, changed = cut(lines_of(models), 0, runs(models, before), earlier, end_of_line)

    assert [cutting.piece(index) for index in range(len(models))] == [
        lines_of([model]) for model in models
    ]
    assert changed == {index for index, model in enumerate(models) if model not in before}


@given(bundles.filter(len), st.data())
def test_a_model_with_another_text_is_checked_again(models, data):
    earlier, _ = cut(lines_of(models), 0, runs(models, ()), None, end_of_line)
    broken = data.draw(st.integers(0, len(models) - 1))
    lines = lines_of(models).splitlines(keepends=True)
    lines[broken] = b"x" + lines[broken]

    cutting, changed = cut(b"".join(lines), 0, runs(models, models), earlier, end_of_line)

    assert broken in changed
    assert [cutting.piece(index) for index in range(len(models))] == lines


def test_a_run_has_a_maximum_length():
    models = [make_model(f"m{number:03}") for number in range(70)]

    assert runs(models, models) == [Run(0, 32, 0), Run(32, 32, 32), Run(64, 6, 64)]


def test_an_equal_model_parsed_again_is_the_same():
    assert runs([make_model("a")], [make_model("a")]) == [Run(0, 1, 0)]


def test_a_missing_line_is_an_error_at_its_place():
    with pytest.raises(Unreadable) as refused:
        cut(b"a 1\n", 0, [Run(0, 1, None), Run(1, 1, None)], None, end_of_line)

    assert str(refused.value) == "line 2: expected a line for each model, found the end"


def test_a_line_is_counted_from_the_start_of_the_text():
    assert [line_at(b"\na\nb\n", position) for position in (0, 1, 2, 3, 6)] == [1, 2, 2, 3, 4]


def test_the_size_grows_with_text_and_models():
    models = tuple(_MODELS.values())
    passed = PassedBundle(
        models, {"x": Cutting(b"x" * 1000, range(9))}, (), (), (), "", frozenset()
    )

    assert passed.size > 1000
    assert NOTHING.size == 0
