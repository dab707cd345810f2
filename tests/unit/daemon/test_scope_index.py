"""An entry of the index belongs to one version and sequence of a pointer."""

import pytest

from daemon.scope_index import ScopeIndex
from daemon.stores.port import Version
from tests.builders import make_composition

ONE, TWO = Version("1"), Version("2")
SCOPE = "visual-anomaly/edge"
COMPOSITION = make_composition(2)
MODELS = frozenset(model.id for model in COMPOSITION.models)


@pytest.fixture
def index():
    return ScopeIndex()


def test_a_scope_that_was_never_seen_is_unknown(index):
    assert index.get(SCOPE) is None
    assert index.changes == 0


def test_an_entry_has_the_models_and_the_pointer_that_it_was_made_with(index):
    index.put(SCOPE, ONE, 7, COMPOSITION)
    entry = index.get(SCOPE)
    assert (entry.version, entry.sequence, entry.models) == (ONE, 7, MODELS)
    assert index.get("other/edge") is None


def test_a_scope_without_a_composition_has_no_model(index):
    index.put(SCOPE, ONE, 1, None)
    assert index.get(SCOPE).models == frozenset()


@pytest.mark.parametrize(
    ("version", "sequence", "changes"), [(ONE, 1, 1), (TWO, 1, 2), (ONE, 2, 2), (TWO, 2, 2)]
)
def test_another_version_or_sequence_replaces_the_entry(index, version, sequence, changes):
    index.put(SCOPE, ONE, 1, None)
    index.put(SCOPE, version, sequence, COMPOSITION)
    assert index.changes == changes
    assert bool(index.get(SCOPE).models) == (changes == 2)


@pytest.mark.parametrize(
    "drop", [lambda index: index.forget(SCOPE), lambda index: index.put(SCOPE, None, 0, None)]
)
def test_a_scope_without_a_pointer_is_unknown_again(index, drop):
    index.put(SCOPE, ONE, 1, None)
    drop(index)
    assert (index.get(SCOPE), index.changes) == (None, 2)
    drop(index)
    assert index.changes == 2


@pytest.mark.parametrize(
    ("models", "has_all"), [(MODELS, True), (frozenset(), True), (MODELS | {"900"}, False)]
)
def test_a_scope_has_all_models_or_lacks_one(index, models, has_all):
    index.put(SCOPE, ONE, 1, COMPOSITION)
    assert index.get(SCOPE).has_all(models) is has_all
