"""What publishing can answer, branched by what the caller should do. The command line maps each to an exit code."""


class PublishingError(Exception):
    """Root of everything this package raises; by itself, a failure without a closer name."""


class NotFound(PublishingError):
    """There is no such scope, state, path or dead letter (exit 3)."""


class OperationRefused(PublishingError):
    """The scope's rules do not allow it now; the message says what would (exit 4)."""


class StateUnreadable(PublishingError):
    """The operator must act: the store does not let a state be read that a recovery has to make live (exit 6)."""


class PointerMoved(PublishingError):
    """Another writer was faster; read again (exit 4)."""


class VerificationFailed(PublishingError):
    """What is stored is not what its pointer, manifest or digests say (exit 5)."""


class NotTrusted(VerificationFailed):
    """No signature of a publication counts by the trust policy: none is there, or none by a key that is trusted."""


class SequenceWentBack(VerificationFailed):
    """A pointer is older than one that was accepted before: a backup was put back, or somebody replays it."""


class CannotSign(PublishingError):
    """The pointer is signed, and this writer has no key: it must not change it (protocol 4; exit 5)."""


class SequenceMemoryUnusable(PublishingError):
    """The operator must act: what was accepted here before cannot be read or written (exit 5)."""


class KeyUnusable(PublishingError):
    """The operator must act: a key cannot be read, is of another kind, or is open to others (exit 2)."""


class PolicyUnusable(PublishingError):
    """The operator must act: the trust policy cannot be read whole, so nothing is trusted (exit 5)."""


class WrongBucket(PublishingError):
    """The operator must act: this is not the bucket that the journal published to, or nobody can tell (ADR 19)."""


class PointerLost(PublishingError):
    """The operator must act: a scope has traces of publications and no pointer (protocol 4, never softened 4)."""


class OlderSchema(PublishingError):
    """The operator must act: a stored document has schema 1, which no release reads (exit 4, ADR 29).

    It is neither damaged nor a reason to recover: the bucket belongs to a development version.
    """


class NewerSchema(PublishingError):
    """The operator must act: a newer release wrote this; this one reads it and refuses to write."""


class NewerRenderer(PublishingError):
    """The operator must act: a newer release rendered what is desired; publishing would go back behind it."""


class OutcomeUnresolved(PublishingError):
    """Look, then try again: whether the pointer was changed could not be found out. A daemon's next try looks first."""
