"""The index of models answers only for the version of the pointer that it was built from."""

import pytest

from daemon.scope_index import ScopeIndex
from daemon.stores.port import Version
from tests.builders import make_composition

ONE, TWO = Version("1"), Version("2")
SCOPE = "visual-anomaly/edge"


@pytest.fixture
def index():
    return ScopeIndex()


def test_a_scope_that_was_never_seen_is_unknown(index):
    assert index.version_without(SCOPE, "101") is None


def test_the_answer_is_the_version_at_which_the_scope_lacks_the_model(index):
    composition = make_composition(2)
    index.put(SCOPE, ONE, composition)
    assert index.version_without(SCOPE, "another") == ONE
    for model in composition.models:
        assert index.version_without(SCOPE, model.id) is None
    assert index.version_without("other/edge", "another") is None


def test_a_scope_without_a_composition_has_no_model(index):
    index.put(SCOPE, ONE, None)
    assert index.version_without(SCOPE, "101") == ONE


def test_a_new_version_replaces_the_models(index):
    composition = make_composition(2)
    index.put(SCOPE, ONE, None)
    index.put(SCOPE, TWO, composition)
    assert index.version_without(SCOPE, composition.models[0].id) is None
    assert index.version_without(SCOPE, "another") == TWO
    index.put(SCOPE, ONE, None)
    assert index.version_without(SCOPE, composition.models[0].id) == ONE


@pytest.mark.parametrize(
    "drop", [lambda index: index.forget(SCOPE), lambda index: index.put(SCOPE, None, None)]
)
def test_a_scope_without_a_pointer_is_unknown_again(index, drop):
    index.put(SCOPE, ONE, None)
    drop(index)
    assert index.version_without(SCOPE, "101") is None
