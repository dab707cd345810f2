"""Conditions and how long they have lasted, with a clock that the test moves."""

from daemon.attention import KINDS, Attention, Change, Condition, Lasting

STUCK = Condition("lane", "a/b", "permission denied", "rebundle status a/b")
AWAY = Condition("bucket", "", "connection refused", "rebundle doctor")


def lasting(attention: Attention, now: float) -> list[tuple[str, float]]:
    return [(condition.condition.kind, condition.seconds) for condition in attention.lasting(now)]


def test_a_condition_is_reported_once_it_has_lasted() -> None:
    attention = Attention(60)
    assert attention.observe(100, [STUCK]) == Change()
    assert attention.observe(159.9, [STUCK]) == Change()
    assert attention.lasting(159.9) == ()
    assert attention.observe(160, [STUCK]) == Change(begun=(STUCK,))
    assert attention.lasting(160) == (Lasting(STUCK, 60),)
    assert attention.observe(165, [STUCK]) == Change()
    assert lasting(attention, 170) == [("lane", 70)]


def test_a_condition_that_ended_starts_again_from_zero() -> None:
    attention = Attention(60)
    attention.observe(0, [STUCK])
    attention.observe(59, [])
    attention.observe(60, [STUCK])
    assert attention.lasting(119) == ()
    assert attention.observe(120, [STUCK]) == Change(begun=(STUCK,))


def test_a_fault_that_another_kind_reports_from_now_on_keeps_its_age() -> None:
    unreadable = Condition("unreadable", "a/b", "damaged", "rebundle verify a/b")
    other_scope = Condition("unreadable", "a/c", "damaged", "rebundle verify a/c")
    for cause in (unreadable, AWAY):
        attention = Attention(60)
        attention.observe(0, [STUCK])
        assert attention.observe(31, [cause]) == Change()
        assert attention.observe(60, [cause]) == Change(begun=(cause,))

        attention = Attention(60)
        attention.observe(0, [STUCK])
        attention.observe(60, [STUCK])
        assert attention.observe(90, [cause]) == Change(begun=(cause,), ended=(STUCK,))
        assert lasting(attention, 90) == [(cause.kind, 90)]

    attention = Attention(60)
    attention.observe(0, [STUCK])
    attention.observe(31, [other_scope])
    assert attention.observe(90, [other_scope]) == Change()


def test_only_the_end_of_a_reported_condition_is_reported() -> None:
    attention = Attention(60)
    attention.observe(0, [STUCK])
    attention.observe(50, [STUCK, AWAY])
    attention.observe(60, [STUCK, AWAY])
    assert attention.observe(65, []) == Change(ended=(STUCK,))
    assert attention.lasting(1000) == ()


def test_another_detail_is_the_same_condition_and_another_subject_is_not() -> None:
    attention = Attention(60)
    worse = Condition("lane", "a/b", "still no permission", "rebundle status a/b")
    other = Condition("lane", "a/c", "permission denied", "rebundle status a/c")
    attention.observe(0, [STUCK])
    attention.observe(30, [worse, other])
    assert attention.lasting(60) == (Lasting(worse, 60),)


def test_a_report_is_ordered_by_kind() -> None:
    attention = Attention(0)
    found = [Condition(kind, subject, "", "") for kind in reversed(KINDS) for subject in ("b", "a")]
    attention.observe(0, found)
    assert [
        (condition.condition.kind, condition.condition.subject)
        for condition in attention.lasting(0)
    ] == [(kind, subject) for kind in KINDS for subject in ("a", "b")]
