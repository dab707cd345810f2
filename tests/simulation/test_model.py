"""The reference model shares no code with the product."""

import ast
import sys
from pathlib import Path

import pytest

from tests.simulation import model
from tests.simulation.model import (
    Event,
    Limits,
    Outcome,
    Publication,
    Request,
    Scope,
    composition_of,
)

DEFAULT = Limits()
AT = "2026-01-01T00:00:00.000000Z"
ONE = composition_of({"101": "1", "102": "1"})


def _event(offset, asked):
    return Event(("journal:0", offset), f"id-{offset}", f"digest-{offset}", asked)


def _batch(scope, *asked, first=1, limits=DEFAULT):
    events = [_event(offset, item) for offset, item in enumerate(asked, first)]
    return model.batch(scope, events, lambda _: False, limits)


def _state(revision, name="", **versions):
    return Request(
        "state", versions or {"101": "1", "102": "1"}, name or f"state-{revision}", revision
    )


def _scope(**changes):
    """A scope with state-1 published, live and desired."""
    first = Publication("state-1", "a", 1, 0, "explicit", False, ONE, ("id-0",), AT)
    scope = Scope(
        sequence=1,
        live=first.name,
        desired=first.name,
        producer=1,
        retained=(first,),
        used=frozenset({("state-1", 1, ONE)}),
    )
    return model.replace(scope, **changes)


def test_it_imports_nothing_but_the_standard_library():
    tree = ast.parse(Path(model.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [item.name for item in node.names]
        )
    }
    assert imported
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (_state(1), Outcome("ignored", "published already", "state-1")),
        (_state(1, "other"), Outcome("dead-lettered", "id or number is used up")),
        (_state(9, "state-1"), Outcome("dead-lettered", "id or number is used up")),
        (Request("model", {"101": "1"}), Outcome("ignored", "exactly so already")),
        (Request("model", {"103": "1"}, named=False), Outcome("ignored", "model not in the scope")),
        (
            Request("model", {"103": "1"}, complete=False),
            Outcome("dead-lettered", "new and incomplete"),
        ),
        (
            Request("model", {"101": "2"}, deleted=True),
            Outcome("ignored", "deleted in the registry"),
        ),
        (Request("rollback", state="state-7"), Outcome("dead-lettered", "not retained")),
        (
            Request("rollback", state="state-1", expected_live="state-0"),
            Outcome("ignored", "not the expected one"),
        ),
    ],
)
def test_an_event_that_changes_nothing_has_the_outcome_of_the_protocol(asked, expected):
    assert model.alone(_scope(), _event(5, asked), lambda _: False, Limits()) == expected


def test_a_burst_publishes_every_state_and_the_last_derived_one():
    moved = Request("model", {"101": "9"})
    result = _batch(
        _scope(),
        Request("model", {"101": "2"}),
        _state(2, **{"101": "5"}),
        moved,
        _state(1, "late"),
    )
    assert result.outcomes[("journal:0", 1)] == Outcome("superseded", "replaced before published")
    assert result.outcomes[("journal:0", 4)] == Outcome("dead-lettered", "id or number is used up")
    assert [(publication.state, publication.late) for publication in result.publications] == [
        ("state-2", False),
        ("derived-2.1-", False),
    ]


def test_a_hold_keeps_live_and_a_quarantine_withholds():
    new = composition_of({"101": "2"})
    held = _scope(held=True)
    result = _batch(held, _state(2, **{"101": "2"}))
    after = model.publish(held, result, [("state-2", "b")], {"journal:0": 1}, AT, Limits())
    assert (after.live, after.desired) == ("state-1@a", "state-2@b")
    withheld = _batch(_scope(quarantined=frozenset({new})), _state(2, **{"101": "2"}))
    assert withheld.outcomes[("journal:0", 1)].kind == "withheld"


def test_a_full_pointer_drops_the_oldest_but_neither_live_nor_desired():
    limits = Limits(retained=2)
    scope = _scope(held=True)
    for revision in (2, 3):
        result = _batch(scope, _state(revision, **{"101": str(revision)}), first=revision)
        scope = model.publish(scope, result, [(f"state-{revision}", "b")], {}, AT, limits)
    assert [publication.state for publication in scope.retained] == ["state-1", "state-3"]


def test_a_batch_above_its_limits_is_a_violation():
    with pytest.raises(model.Violation):
        _batch(_scope(), _state(2), _state(3), limits=Limits(batch_states=1))
    with pytest.raises(model.Violation):
        _batch(_scope(), Request("rollback", state="state-1"), _state(3))


@pytest.mark.parametrize(
    ("changes", "asked", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"live": None}, False, True),
        ({"live": None, "quarantined": frozenset({ONE})}, False, False),
        ({"live": None, "desired": None}, True, False),
    ],
)
def test_a_rebuilt_pointer_is_on_hold_unless_declined_and_live_is_desired_or_withheld(
    changes, asked, expected
):
    assert model.must_be_held(_scope(**changes), asked=asked) is expected
