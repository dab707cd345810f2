"""Errors of publishing, one class for each reaction of the caller.

The command line maps every class to an exit code.
"""


class PublishingError(Exception):
    """Base class of the errors of this package. Raised directly only where no subclass fits."""


class NotFound(PublishingError):
    """There is no such scope, state, path or dead letter (exit 3)."""


class OperationRefused(PublishingError):
    """The scope's rules do not allow the operation now (exit 4).

    The message gives what would be allowed.
    """


class StateUnreadable(PublishingError):
    """A recovery cannot use a state that it has to make live (exit 6). The operator must act.

    The store refuses to read it, or the trust policy refuses it.
    """


class PointerMoved(PublishingError):
    """Another writer changed the pointer first: read it again (exit 4)."""


class VerificationFailed(PublishingError):
    """A stored object does not match its pointer, manifest or digests (exit 5)."""


class NotTrusted(VerificationFailed):
    """A publication has no signature, or none by a key that the trust policy trusts."""


class SequenceWentBack(VerificationFailed):
    """A pointer is older than one that was accepted before.

    A backup was restored, or an old pointer is replayed.
    """


class CannotSign(PublishingError):
    """This writer cannot sign as required, so it must not write (protocol 4; exit 5).

    A signed pointer requires a signing key. A trust policy requires a key that it accepts.
    """


class SequenceMemoryUnusable(PublishingError):
    """The memory of the accepted sequences cannot be read or written (exit 5).

    The operator must act.
    """


class KeyUnusable(PublishingError):
    """A key cannot be read, is of another kind, or is accessible to other users (exit 2).

    The operator must act.
    """


class PolicyUnusable(PublishingError):
    """The trust policy cannot be read completely, so nothing is trusted (exit 5).

    The operator must act.
    """


class WrongBucket(PublishingError):
    """This is not the bucket that the journal published to, or its id is damaged (ADR 19).

    The operator must act.
    """


class PointerLost(PublishingError):
    """A scope has traces of publications and no pointer (protocol 4, never softened 4).

    The operator must act.
    """


class OlderSchema(PublishingError):
    """A stored document has schema 1, which no release reads (exit 4, ADR 29).

    The operator must act. The document is not damaged, and recovery is the wrong remedy: the bucket
    belongs to a development version.
    """


class NewerSchema(PublishingError):
    """A newer release wrote the document: this release reads it and refuses to write.

    The operator must act.
    """


class NewerRenderer(PublishingError):
    """A newer release rendered the desired publication: publishing would downgrade it.

    The operator must act.
    """


class OutcomeUnresolved(PublishingError):
    """Whether the pointer was changed is unknown.

    The caller checks the pointer, then tries again. A daemon's next try checks first.
    """
