"""What a recovery accepts from unsigned remains under a trust policy that requires signatures.

Anyone who can write the bucket can forge such remains. They may prevent a state from going live,
and never cause it.
"""

from typing import Any

from daemon.publishing import protocol
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.recovery_remains import Remains, Unsigned, VerifiedPublication
from daemon.publishing.maintenance.recovery_rules import Recovered, RecoveryOptions
from daemon.publishing.pointer import (
    HistoryEntry,
    Hold,
    Pointer,
    Publication,
    PublicationId,
    Quarantine,
)
from tests.builders_publishing import AT, SCOPE, make_publication, published, writing

ONE, TWO, THREE = (make_publication(f"state-{number}", number) for number in (1, 2, 3))
ABSENT = "0" * 64
HELD = Hold(by="bob", reason="wait", at=AT)
SIGNED = published(ONE, TWO)
"""Live: state-2."""
COMPARE = "what was live, held and quarantined, and in which order: that is known only from history and marker, which are not signed. "


def rejected(publication: Publication | None = None, reason: str = "bad") -> Quarantine:
    return Quarantine(
        composition_digest=publication.composition_digest if publication else ABSENT,
        by="bob",
        reason=reason,
        at=AT,
    )


def entry(number: int, **change: Any) -> HistoryEntry:
    return HistoryEntry(
        sequence=number, write_id=f"w{number}", kind="quarantine", at=AT, by="bob", change=change
    )


def quarantined(*publications: Publication | None) -> tuple[HistoryEntry, ...]:
    """One change per publication. None stands for a composition that the bucket does not have."""
    return tuple(
        entry(900 + number, quarantine=rejected(publication).model_dump())
        for number, publication in enumerate(publications)
    )


def recovered(
    unsigned: Unsigned | None,
    *publications: Publication,
    pointer: Pointer | None = SIGNED,
    live: str | None = None,
    **more: Any,
) -> Recovered:
    """Of a scope whose marker has seen a later pointer than the present one."""
    remains = Remains(
        SCOPE,
        pointer=pointer,
        traces={"marker": 9},
        found=tuple(map(VerifiedPublication, publications or (ONE, TWO, THREE))),
        unsigned=unsigned,
        **more,
    )
    found = recovery_rules.recover(
        remains, writing(9, reason="why"), RecoveryOptions(live=live, hold=False)
    )
    assert found is not None
    return found


def rejections(pointer: Pointer) -> dict[str, str]:
    return {quarantine.composition_digest: quarantine.reason for quarantine in pointer.quarantined}


def live(pointer: Pointer) -> str | None:
    return pointer.live.state if pointer.live else None


def test_an_unsigned_change_quarantines_only_states_that_are_not_live() -> None:
    in_one = entry(900, quarantined=[rejected(item).model_dump() for item in (ONE, TWO, None)])
    for entries in (quarantined(ONE, TWO, None), (in_one,), (entry(1), *quarantined(TWO), in_one)):
        pointer = recovered(Unsigned(entries=entries)).pointer

        assert rejections(pointer) == {ONE.composition_digest: "bad"}
        assert live(pointer) == "state-2"


def test_an_unsigned_change_lifts_no_restriction() -> None:
    signed = protocol.quarantine(SIGNED, writing(3), ONE)
    lifting = entry(900, lifted=ONE.composition_digest, quarantined=[], hold=None)
    pointer = recovered(
        Unsigned(entries=(lifting,)), pointer=signed.model_copy(update={"hold": HELD})
    ).pointer

    assert rejections(pointer) == {ONE.composition_digest: "because"}
    assert pointer.hold == HELD


def test_malformed_unsigned_changes_are_skipped() -> None:
    malformed = (
        entry(901, quarantine=7),
        entry(902, quarantined="x"),
        entry(903, quarantined=["?", 3]),
    )

    assert rejections(recovered(Unsigned(entries=malformed)).pointer) == {}


def test_without_a_signed_pointer_a_quarantine_keeps_a_state_from_going_live() -> None:
    unsigned = Unsigned(entries=quarantined(THREE, None))
    result = recovered(unsigned, pointer=None)

    assert rejections(result.pointer) == {THREE.composition_digest: "bad"}
    assert live(result.pointer) == "state-2"
    assert result.unknown[2] == COMPARE + "Compare it with what runs"


def test_holds_and_quarantines_of_a_pointer_without_a_valid_signature_stay() -> None:
    doubted = published(ONE).model_copy(
        update={"quarantined": (rejected(TWO), rejected()), "hold": HELD}
    )
    result = recovered(Unsigned(pointer=doubted), pointer=None, live="state-1")

    assert rejections(result.pointer) == {TWO.composition_digest: "bad", ABSENT: "bad"}
    assert result.pointer.hold == HELD
    assert result.unknown[0] == (
        "holds, quarantines, pins and their ends are known only from the pointer whose signature is not accepted"
    )


def test_the_reason_in_the_pointer_takes_precedence_over_that_of_a_change() -> None:
    doubted = published(ONE).model_copy(update={"quarantined": (rejected(ONE, "of the pointer"),)})
    pointer = recovered(Unsigned(entries=quarantined(ONE), pointer=doubted)).pointer

    assert rejections(pointer) == {ONE.composition_digest: "of the pointer"}


def test_a_recovery_reports_what_it_ignored_in_unsigned_changes() -> None:
    unknown = recovered(Unsigned(entries=quarantined(ONE, TWO))).unknown

    assert (
        "the effect of 2 changes that no signed pointer leads to: only their quarantines were adopted"
        in unknown
    )
    assert (
        f"whether {TWO.id} is quarantined: that is known only from a change that is not signed, and such a change does not affect what is live; "
        f"`rebundle quarantine {SCOPE} state-2 --rollback-to STATE --reason '…'` does"
    ) in unknown
    assert not any(f"whether {ONE.id} is quarantined" in line for line in unknown)


def test_a_requested_state_is_reported_as_perhaps_quarantined_only_if_a_change_names_it() -> None:
    unknown = recovered(Unsigned(entries=quarantined(TWO)), live="state-1").unknown

    assert not any("is quarantined" in line for line in unknown)


def test_a_state_that_only_the_marker_names_is_reported_with_the_command_that_adopts_it() -> None:
    line = (
        f"whether {ONE.id} is live: that is known only from the live tree's marker, which is not "
        f"signed; `--live {ONE.id}` takes it"
    )

    assert line in recovered(Unsigned(tree=ONE.id)).unknown
    assert line not in recovered(Unsigned(tree=ONE.id), live="state-1").unknown
    assert line not in recovered(Unsigned()).unknown


def test_signatures_are_not_mentioned_if_everything_is_signed_or_no_policy_requires_them() -> None:
    for unsigned in (Unsigned(), None):
        result = recovered(unsigned, ONE, TWO)

        assert result.unknown == (
            "holds, quarantines, pins and their ends after sequence 2 are not known",
            "events that settled without a publication of their own may be folded again if they are sent again",
        )


def test_nothing_is_known_without_a_change_and_a_pointer() -> None:
    result = recovered(None, ONE, pointer=None, tree=PublicationId(state="gone", attempt="x"))

    assert result.unknown[0] == "holds, quarantines, pins and their ends are not known"
    assert result.unknown[2] == f"whether these were ever committed, and in which order: {ONE.id}"
