"""What a failed call means, by when it failed."""

import errno
import os

import pytest

from daemon.stores.diskerrors import after_writing, before_writing, while_writing
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown, StoreRefused, StoreUnavailable


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/srv/bucket/file")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV])
@pytest.mark.parametrize("when", [before_writing, while_writing])
def test_what_an_operator_must_mend_is_refused_with_advice(when, number: int) -> None:
    with pytest.raises(StoreRefused, match=r"^key: .+ \(/srv/bucket/file\); .+") as refused, when("key"):
        raise failure(number)

    assert refused.value.__cause__ is not None


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
def test_another_error_before_the_name_is_given_wrote_nothing(number: int) -> None:
    with pytest.raises(StoreUnavailable, match="key"), before_writing("key"):
        raise failure(number)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR])
def test_another_error_while_the_name_is_given_is_unknown(number: int) -> None:
    with pytest.raises(OutcomeUnknown, match="may have been written"), while_writing("key"):
        raise failure(number)


def test_a_name_that_is_taken_or_gone_is_certain() -> None:
    with pytest.raises(ConditionFailed, match="exists"), while_writing("key"):
        raise failure(errno.EEXIST)
    with pytest.raises(StoreUnavailable, match="removed"), while_writing("key"):
        raise failure(errno.ENOENT)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_every_error_after_the_name_was_given_is_unknown(number: int) -> None:
    with pytest.raises(OutcomeUnknown, match="power cut"), after_writing("key"):
        raise failure(number)


@pytest.mark.parametrize("when", [before_writing, while_writing, after_writing])
def test_the_stores_own_errors_pass(when) -> None:
    with pytest.raises(ObjectMissing), when("key"):
        raise ObjectMissing("key")


def test_an_error_without_a_number_is_told_by_its_text() -> None:
    with pytest.raises(StoreUnavailable, match="key: strange"), before_writing("key"):
        raise OSError("strange")
