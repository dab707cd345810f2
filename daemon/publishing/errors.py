"""Errors of publishing. The second base class of each is its consequence (`daemon.failures`)."""

from daemon.consequences import Conflict, Damaged, Invalid, OperatorActionNeeded, Transient


class PublishingError(Exception):
    """Base class of the errors of this package."""


class NotFound(PublishingError, Invalid):
    """There is no such scope, state, path or dead letter."""


class NothingPublished(NotFound):
    """Nothing was ever published in a scope: it has no pointer, and no trace of one.

    A folder that Rebundle did not write can have the name of a scope. A first publication may have
    stored its objects and never been committed.
    """


class OperationRefused(PublishingError, OperatorActionNeeded):
    """The scope's rules do not allow the operation now.

    The message gives what would be allowed.
    """


class StateUnreadable(PublishingError, OperatorActionNeeded):
    """A recovery cannot use a state that it has to make live.

    The store refuses to read it, or the trust policy refuses it.
    """


class PointerMoved(PublishingError, Conflict):
    """Another writer changed the pointer first: read it again."""


class VerificationFailed(PublishingError, Damaged):
    """A stored object does not match its pointer, manifest or digests."""


class ObjectGone(VerificationFailed):
    """An object that a pointer, a manifest or a chunk names is no longer in the bucket."""


class NotTrusted(VerificationFailed):
    """A publication has no signature, or none by a key that the trust policy trusts."""


class SequenceWentBack(VerificationFailed):
    """A pointer is older than one that was accepted before.

    A backup was restored, or an old pointer is replayed.
    """


class CannotSign(PublishingError, OperatorActionNeeded):
    """This writer cannot sign as required, so it must not write (protocol 4).

    A signed pointer requires a signing key. A trust policy requires a key that it accepts.
    """


class SequenceMemoryUnusable(PublishingError, OperatorActionNeeded):
    """The memory of the accepted sequences cannot be read or written."""


class KeyUnusable(PublishingError, Invalid):
    """A key cannot be read, is of another kind, or is accessible to other users."""


class PolicyUnusable(PublishingError, OperatorActionNeeded):
    """The trust policy cannot be read completely, so nothing is trusted."""


class WrongBucket(PublishingError, OperatorActionNeeded):
    """This is not the bucket that the journal published to, or its id is damaged (ADR 19)."""


class PointerLost(PublishingError, Damaged):
    """A scope has traces of a pointer that is gone or older (protocol 4, absolute rule 4)."""


class OlderSchema(PublishingError, OperatorActionNeeded):
    """A stored document has schema 1, which no release reads (ADR 29).

    The document is not damaged, and recovery is the wrong remedy: the bucket belongs to a
    development version.
    """


class NewerSchema(PublishingError, OperatorActionNeeded):
    """A newer release wrote the document: this release reads it and refuses to write."""


class NewerRenderer(PublishingError, OperatorActionNeeded):
    """A newer release rendered the desired publication: publishing would downgrade it."""


class OutcomeUnresolved(PublishingError, Transient):
    """Whether the pointer was changed is unknown.

    The caller checks the pointer, then tries again. A daemon's next try checks first.
    """
