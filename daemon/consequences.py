"""What a failure asks of the caller: five base classes. Every error of the daemon has one of them.

`events.errors` and `renderers.errors` have base classes with the same names, because these packages
do not import the daemon. `daemon.failures` states what lanes, readiness and the command line do
about each (ADR 30).
"""


class Transient(Exception):
    """Try again: the same call may succeed without a change, as when a store is unreachable."""


class Conflict(Exception):
    """Read again, then decide again: what is stored is not what the caller expected."""


class OperatorActionNeeded(Exception):
    """An operator has to act, for example grant a permission: until then every try fails."""


class Invalid(Exception):
    """The input is wrong, such as an event, an argument or a setting: correct it."""


class Damaged(Exception):
    """Stored or rendered data is not what its digest, signature or composition demands."""
