"""The fold of protocol 3, one test per sentence, and two properties: repeated and late events are
harmless.
"""

from collections.abc import Sequence
from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import batches
from daemon.changes import Change, ModelVersionChanged, RollbackRequested, StateCreated
from daemon.folding import (
    DesiredState,
    Late,
    Moved,
    PlannedState,
    fold,
    plan,
)
from daemon.publishing.pointer import Revision
from daemon.used_states import UsedState, UsedStates
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.source import Delivery
from renderers.composition import MAX_MODELS, Composition, ModelChange
from renderers.values import Scope
from tests.builders import (
    composition_document,
    golden_composition,
    make_composition,
    make_model,
    model_document,
)

SCOPE = Scope("visual-anomaly", "core-versions")
ROLLBACK = RollbackRequested(SCOPE, "state-1", None, "", None, lambda: "00")
Foldable = StateCreated | ModelVersionChanged


def composition(version: str = "1", *, models: int = 2) -> Composition:
    """Models 101 (with this version), 102, …"""
    document = composition_document(models)
    document["models"][0]["version"] = version
    return Composition.model_validate(document)


def state(
    revision: int, made: Composition | None = None, *, name: str | None = None
) -> StateCreated:
    return StateCreated(
        made or composition(str(revision)), name or f"state-{revision}", revision, lambda: "0" * 64
    )


def version(
    number: str,
    model_id: str = "101",
    *,
    named: bool = True,
    back: bool = False,
    deleted: bool = False,
    complete: bool = True,
) -> ModelVersionChanged:
    document = (
        model_document(model_id, version=number)
        if complete
        else {"id": model_id, "version": number}
    )
    change = ModelChange.model_validate(document)
    return ModelVersionChanged(change, (SCOPE,) if named else None, back, deleted, lambda: "0" * 64)


def batch(*changes: Foldable) -> list[tuple[Delivery, Foldable]]:
    delivered = []
    for offset, change in enumerate(changes, 1):
        event = Event(f"event-{offset}", "https://registry.example.com/", "type", {})
        identity = Identity("http", event.source, event.id)
        delivery = Delivery(
            event, identity, "0" * 64, Position("journal:1", offset), "2026-01-01T00:00:00.000Z"
        )
        delivered.append((delivery, change))
    return delivered


def folded(*changes: Foldable, start: DesiredState | None = None) -> DesiredState:
    return plan(start or DesiredState(None), batch(*changes)).desired


def outcome_of(desired: DesiredState, change: Foldable) -> Outcome:
    step = fold(desired, change)
    assert isinstance(step, Outcome)
    return step


# -- explicit states


def test_an_explicit_state_creates_its_scope() -> None:
    made = folded(state(1))
    assert (made.composition, made.highest_revision) == (composition("1"), Revision(1))


def test_a_state_above_the_highest_revision_replaces_everything_including_derived_changes() -> None:
    before = folded(state(1), version("8"))
    assert before.highest_revision == Revision(1, 1)
    after = folded(state(5), start=before)
    assert (after.composition, after.highest_revision) == (composition("5"), Revision(5))


def test_a_state_without_a_model_removes_it() -> None:
    after = folded(state(1, make_composition(3)), state(2, make_composition(2)))
    assert after.composition is not None
    assert after.composition.model("103") is None


def test_a_late_state_moves_nothing_but_uses_its_id_and_revision() -> None:
    before = folded(state(1), state(5), version("8"))
    step = fold(before, state(3))
    assert isinstance(step, Late)
    assert step.desired.composition is before.composition
    assert step.desired.highest_revision == Revision(5, 1)
    assert outcome_of(step.desired, state(3)).kind is OutcomeKind.IGNORED
    assert outcome_of(step.desired, state(3, name="other")).kind is OutcomeKind.DEAD_LETTERED


def test_a_state_with_the_desired_composition_is_published_under_its_own_id() -> None:
    same = composition("1")
    planned = plan(folded(state(1, same)), batch(state(2, same))).publications
    assert [(publication.state, publication.late) for publication in planned] == [
        ("state-2", False)
    ]


def test_the_same_state_again_changes_nothing() -> None:
    before = folded(state(1), state(2))
    for again in (state(1), state(2)):
        outcome = outcome_of(before, again)
        assert (outcome.kind, outcome.state) == (OutcomeKind.IGNORED, again.state)


@pytest.mark.parametrize(
    ("clashing", "message"),
    [
        (state(9, name="state-1"), "published with revision 1"),
        (state(1, name="state-9"), "revision 1 is state state-1 already"),
        (state(1, composition("7")), "published with another composition"),
    ],
    ids=["id-with-another-number", "number-with-another-id", "both-with-another-composition"],
)
def test_an_id_or_revision_used_by_another_composition_is_a_dead_letter(
    clashing: StateCreated, message: str
) -> None:
    outcome = outcome_of(folded(state(1), state(2)), clashing)
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert message in outcome.reason


def test_an_id_in_history_is_used_although_its_revision_was_not_looked_up() -> None:
    used = UsedStates((UsedState("state-1", None, None),))
    outcome = outcome_of(
        DesiredState(composition("2"), Revision(2), used), state(9, name="state-1")
    )
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert "published with another revision" in outcome.reason


def test_a_revision_in_history_is_used_once_it_was_looked_up() -> None:
    used = UsedStates((UsedState("state-1", 1, composition("1").digest),))
    desired = DesiredState(composition("2"), Revision(2), used)
    assert outcome_of(desired, state(1, name="other")).kind is OutcomeKind.DEAD_LETTERED
    assert outcome_of(desired, state(1)).kind is OutcomeKind.IGNORED


def test_a_dead_lettered_state_uses_no_id_or_revision() -> None:
    before = folded(state(1))
    made = plan(before, batch(state(1, name="two"), state(2, name="two")))
    assert [publication.state for publication in made.publications] == ["two"]


def test_in_a_retired_scope_a_late_state_keeps_the_revision_and_a_newer_one_raises_it() -> None:
    retired = DesiredState(
        None, Revision(5, 2), used=UsedStates((UsedState("state-5", 5, "0" * 64),))
    )
    late = fold(retired, state(4))
    assert isinstance(late, Late)
    assert late.desired.composition is None
    returned = fold(retired, state(6))
    assert isinstance(returned, Moved)
    assert (returned.desired.composition, returned.desired.highest_revision) == (
        composition("6"),
        Revision(6),
    )


# -- model versions


def test_a_model_version_updates_its_model_and_counts_a_derived_state() -> None:
    before = folded(state(42))
    made = plan(before, batch(version("43")))
    [planned] = made.publications
    digest = planned.composition.digest
    assert (planned.state, planned.kind) == (f"derived-42.1-{digest[:12]}", "derived")
    moved = planned.composition.model("101")
    assert moved is not None
    assert moved.version == "43"
    assert planned.composition.model("102") == composition("42").model("102")


def test_a_new_model_is_added() -> None:
    after = folded(state(1), version("3", "900"))
    assert after.composition is not None
    assert [model.id for model in after.composition.models] == ["101", "102", "900"]


def test_a_new_model_needs_a_complete_entry() -> None:
    outcome = outcome_of(folded(state(1)), version("3", "900", complete=False))
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert "artifact and serving" in outcome.reason


def test_fields_that_a_new_version_of_a_model_omits_stay_unchanged() -> None:
    before = folded(state(1))
    after = folded(version("2", complete=False), start=before)
    assert before.composition is not None
    assert after.composition is not None
    old, new = before.composition.model("101"), after.composition.model("101")
    assert old is not None
    assert new is not None
    assert (new.version, new.artifact, new.serving) == ("2", old.artifact, old.serving)


def test_a_model_whose_id_differs_only_by_dash_and_underscore_is_a_dead_letter() -> None:
    before = folded(state(1), version("1", "a-b"))
    outcome = outcome_of(before, version("1", "a_b"))
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert "'a-b' and 'a_b'" in outcome.reason


def test_a_model_above_the_capacity_of_a_bundle_is_a_dead_letter() -> None:
    models = tuple(make_model(str(number)) for number in range(MAX_MODELS))
    full = Composition.model_construct(
        bundle=golden_composition().bundle, models=models, proxy=golden_composition().proxy
    )
    outcome = outcome_of(DesiredState(full, Revision(1)), version("1", "newcomer"))
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert str(MAX_MODELS) in outcome.reason


def test_a_model_version_that_changes_nothing_is_ignored_and_counts_nothing() -> None:
    before = folded(state(1), version("8"))
    assert outcome_of(before, version("8")).kind is OutcomeKind.IGNORED
    assert folded(version("8"), start=before) == before


def test_a_to_b_and_back_to_a_is_two_changes_and_is_published() -> None:
    before = folded(state(1), version("7"))
    made = plan(before, batch(version("8"), version("7", back=True)))
    assert made.desired.composition == before.composition
    assert made.desired.highest_revision == Revision(1, 3)
    [planned] = made.publications
    assert planned.state.startswith("derived-1.3-")
    assert [delivery.event.id for delivery in planned.deliveries] == ["event-1", "event-2"]


@pytest.mark.parametrize("number", ["1", "007", "9"])
def test_a_created_event_never_lowers_the_version_of_a_model(number: str) -> None:
    before = folded(state(10))
    outcome = outcome_of(before, version(number))
    assert outcome.kind is OutcomeKind.SUPERSEDED
    assert "version 10" in outcome.reason


def test_an_updated_event_may_lower_the_version_of_a_model() -> None:
    after = folded(state(10), version("9", back=True))
    assert after.composition is not None
    moved = after.composition.model("101")
    assert moved is not None
    assert moved.version == "9"


@pytest.mark.parametrize(
    ("first", "then"), [("v10", "9"), ("10", "v9"), ("10", "0"), ("1.5", "1.4"), ("10", "00")]
)
def test_versions_that_are_not_positive_integers_follow_delivery_order(
    first: str, then: str
) -> None:
    after = folded(state(1, composition(first)), version(then))
    assert after.composition is not None
    moved = after.composition.model("101")
    assert moved is not None
    assert moved.version == then


def test_a_deleted_model_stays_and_needs_attention() -> None:
    before = folded(state(1))
    outcome = outcome_of(before, version("1", deleted=True, back=True))
    assert outcome.kind is OutcomeKind.IGNORED
    assert outcome.reason.startswith("needs attention")
    assert folded(version("1", deleted=True), start=before) == before


@pytest.mark.parametrize(
    "change",
    [version("1", "900", named=False), version("1", "900", deleted=True)],
    ids=["for-whoever-has-it", "deleted"],
)
def test_a_model_that_the_scope_does_not_have_is_ignored(change: ModelVersionChanged) -> None:
    outcome = outcome_of(folded(state(1)), change)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.IGNORED, "no model 900 in this scope")


def test_a_model_event_that_names_an_absent_scope_is_a_dead_letter() -> None:
    outcome = outcome_of(DesiredState(None), version("1"))
    assert outcome.kind is OutcomeKind.DEAD_LETTERED
    assert "send bundle_state.created first" in outcome.reason


def test_a_model_event_without_bundles_is_ignored_by_a_retired_scope() -> None:
    assert (
        outcome_of(DesiredState(None, Revision(5, 2)), version("1", named=False)).kind
        is OutcomeKind.IGNORED
    )


# -- batches


def test_a_derived_state_before_an_explicit_one_is_skipped_and_its_events_are_superseded() -> None:
    made = plan(folded(state(1)), batch(version("7"), version("8"), state(2)))
    assert [publication.state for publication in made.publications] == ["state-2"]
    assert {
        at.offset: (outcome.kind, outcome.reason) for at, outcome in made.outcomes.items()
    } == dict.fromkeys(
        (1, 2), (OutcomeKind.SUPERSEDED, "replaced by state state-2 before it was published")
    )


def test_only_the_last_derived_state_of_a_batch_is_published_and_lists_all_its_events() -> None:
    made = plan(
        folded(state(1)), batch(version("7"), version("7"), version("8"), version("9", "900"))
    )
    [planned] = made.publications
    assert planned.state.startswith("derived-1.3-")
    assert [delivery.position.offset for delivery in planned.deliveries] == [1, 3, 4]
    assert {at.offset: outcome.kind for at, outcome in made.outcomes.items()} == {
        2: OutcomeKind.IGNORED
    }


def test_every_explicit_state_of_a_batch_is_published_in_order_and_a_derived_one_last() -> None:
    made = plan(
        folded(state(3)),
        batch(state(4), version("9"), state(2), version("10"), state(5), version("11")),
    )
    described = [
        (publication.state[:11], publication.late, publication.kind)
        for publication in made.publications
    ]
    assert described == [
        ("state-4", False, "explicit"),
        ("state-2", True, "explicit"),
        ("state-5", False, "explicit"),
        ("derived-5.1", False, "derived"),
    ]
    assert {at.offset for at in made.outcomes} == {2, 4}


def test_a_late_state_does_not_supersede_the_moves_before_it() -> None:
    made = plan(folded(state(3)), batch(version("9"), state(2)))
    assert [publication.state[:11] for publication in made.publications] == [
        "state-2",
        "derived-3.1",
    ]
    assert made.outcomes == {}


def test_an_event_that_cannot_be_folded_settles_alone() -> None:
    made = plan(
        folded(state(1)), batch(version("7"), version("1", "900", complete=False), version("8"))
    )
    assert {at.offset: outcome.kind for at, outcome in made.outcomes.items()} == {
        2: OutcomeKind.DEAD_LETTERED
    }
    assert [delivery.position.offset for delivery in made.publications[0].deliveries] == [1, 3]


def test_a_batch_of_nothing_new_plans_nothing() -> None:
    before = folded(state(1))
    made = plan(before, batch(state(1), version("1", named=False, model_id="900")))
    assert made.publications == ()
    assert made.desired == before


@pytest.mark.parametrize(
    ("waiting", "size"),
    [
        ([], 0),
        ([version("1")] * 1500, batches.MOST_EVENTS),
        ([state(1)] * 25, batches.MOST_STATES),
        ([*[version("1")] * 5, *[state(1)] * 21], 25),
        ([version("1"), state(1), ROLLBACK, version("2")], 2),
        ([ROLLBACK, version("2")], 1),
    ],
    ids=[
        "none",
        "a-thousand-events",
        "twenty-states",
        "states-among-models",
        "up-to-a-rollback",
        "rollback-alone",
    ],
)
def test_a_batch_ends_at_its_limits_and_around_a_rollback_request(
    waiting: Sequence[Change], size: int
) -> None:
    assert batches.size_of_first(waiting) == size


# -- properties

VERSIONS = st.sampled_from(["1", "2", "3", "v1"])
MODELS = st.sampled_from(["101", "102", "900", "a-b", "a_b"])
COMPOSITIONS = [
    composition(number, models=models) for number in ("1", "2", "v1") for models in (1, 2, 3)
]
STATES = st.builds(
    lambda revision, made, name: state(revision, made, name=name),
    st.integers(1, 6),
    st.sampled_from(COMPOSITIONS),
    st.sampled_from(["a", "b", "c", "d", None]),
)
MOVES = st.builds(
    lambda number, model_id, named, back, deleted: version(
        number, model_id, named=named, back=back, deleted=deleted
    ),
    VERSIONS,
    MODELS,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
NAMED_MOVES = st.builds(
    lambda number, model_id, back: version(number, model_id, back=back),
    VERSIONS,
    MODELS,
    st.booleans(),
)
CHANGES = st.lists(st.one_of(STATES, MOVES), max_size=12)
DISTINCT_STATES = st.lists(st.sampled_from(COMPOSITIONS), min_size=1, max_size=6).map(
    lambda compositions: [
        state(number, made) for number, made in zip(count(1), compositions, strict=False)
    ]
)


@given(DISTINCT_STATES, st.data())
def test_any_permutation_of_explicit_states_ends_in_the_same_place(
    states: list[StateCreated], data: st.DataObject
) -> None:
    in_order = folded(*states)
    shuffled = folded(*data.draw(st.permutations(states)))
    assert shuffled.composition == in_order.composition
    assert shuffled.highest_revision == in_order.highest_revision
    assert set(shuffled.used.known) == set(in_order.used.known)


@given(DISTINCT_STATES, st.data())
def test_any_repetition_of_explicit_states_publishes_each_state_once(
    states: list[StateCreated], data: st.DataObject
) -> None:
    repeated = data.draw(st.lists(st.sampled_from(states), min_size=1, max_size=15))
    made = plan(DesiredState(None), batch(*repeated))
    published = [publication.state for publication in made.publications]
    assert sorted(published) == sorted({delivery.state for delivery in repeated})
    assert made.desired.highest_revision == Revision(
        max(delivery.revision for delivery in repeated)
    )


@given(CHANGES, st.lists(STATES, max_size=3), st.lists(NAMED_MOVES, max_size=8), st.integers(1, 3))
def test_any_repetition_of_states_and_the_models_after_them_ends_in_the_same_composition(
    before: list[Foldable], states: list[StateCreated], moves: list[ModelVersionChanged], times: int
) -> None:
    # `positions` and `folded_events` keep an old model event from being folded again, not the fold
    # (protocol 2).
    suffix = [*states, *moves]
    once = folded(*before, *suffix)
    again = folded(*suffix * times, start=once)
    assert again.composition == once.composition
    assert again.highest_revision.producer == once.highest_revision.producer
    assert again.used == once.used


@given(CHANGES, st.data())
def test_a_batch_has_the_same_result_as_its_events_one_by_one(
    changes: list[Foldable], data: st.DataObject
) -> None:
    start = folded(state(2)) if data.draw(st.booleans()) else DesiredState(None)
    whole = plan(start, batch(*changes))
    one_by_one = start
    for change in changes:
        one_by_one = folded(change, start=one_by_one)
    assert whole.desired == one_by_one


@given(CHANGES, st.data())
def test_cutting_a_batch_anywhere_publishes_the_same_explicit_states(
    changes: list[Foldable], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(changes)))
    whole = plan(DesiredState(None), batch(*changes))
    first = plan(DesiredState(None), batch(*changes[:cut]))
    second = plan(first.desired, batch(*changes[cut:]))

    def explicit(publications: Sequence[PlannedState]) -> list[tuple[str, bool]]:
        return [
            (publication.state, publication.late)
            for publication in publications
            if publication.kind == "explicit"
        ]

    assert explicit(whole.publications) == explicit(first.publications) + explicit(
        second.publications
    )


@given(CHANGES)
def test_every_event_either_settles_alone_or_goes_into_exactly_one_publication(
    changes: list[Foldable],
) -> None:
    made = plan(DesiredState(None), batch(*changes))
    published = [
        delivery.position.offset for planned in made.publications for delivery in planned.deliveries
    ]
    settled = [at.offset for at in made.outcomes]
    assert sorted(published + settled) == list(range(1, len(changes) + 1))


@given(CHANGES)
def test_revisions_never_decrease(changes: list[Foldable]) -> None:
    desired_states = accumulate(
        changes, lambda desired, change: folded(change, start=desired), initial=DesiredState(None)
    )
    numbers = [desired.highest_revision for desired in desired_states]
    assert numbers == sorted(numbers)


# -- what a plan has for each state


def test_a_planned_explicit_state_has_every_field_of_its_event() -> None:
    given = batch(version("8"), state(2))

    (planned,) = plan(folded(state(1)), given).publications

    (moved, _), (delivery, change) = given
    assert planned == PlannedState(
        change.composition, "state-2", Revision(2), "explicit", False, (delivery,), (moved,)
    )


def test_a_planned_derived_state_is_numbered_below_the_newest_explicit_one() -> None:
    given = batch(version("8"), version("9"))
    before = folded(state(4), version("7"))

    planned_all = plan(before, given)

    made = planned_all.desired.composition
    assert made is not None
    name = f"derived-4.3-{made.digest[:12]}"
    deliveries = tuple(delivery for delivery, _ in given)
    assert planned_all.publications == (
        PlannedState(made, name, Revision(4, 3), "derived", False, deliveries),
    )


def test_an_event_without_a_scope_to_change_gets_a_reason() -> None:
    everywhere, named = (
        outcome_of(DesiredState(None), version("1", named=item)) for item in (False, True)
    )

    assert everywhere == Outcome(OutcomeKind.IGNORED, "the scope has no composition")
    assert named.reason == "there is no such scope: send bundle_state.created first"


def test_a_used_revision_is_refused_with_a_remedy() -> None:
    outcome = outcome_of(folded(state(1), state(2)), state(1, name="state-9"))

    assert outcome.reason.endswith("send state-9 again with a revision that is not used")


def test_a_state_with_the_highest_revision_is_not_above_it() -> None:
    step = fold(DesiredState(composition("5"), Revision(5)), state(5, composition("7")))

    assert isinstance(step, Late)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (state(1), "state state-1 is published already"),
        (version("8"), "model 101 is exactly this already"),
        (
            version("8", deleted=True),
            "model 101 was deleted in the registry, and stays until a bundle-state leaves",
        ),
    ],
    ids=["state", "model", "deleted model"],
)
def test_an_event_that_changes_nothing_gets_a_reason(change: Foldable, reason: str) -> None:
    assert reason in outcome_of(folded(state(1), version("8")), change).reason
