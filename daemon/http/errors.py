"""What keeps the intake over HTTP from being there at all."""


class ListenFailed(Exception):
    """The operator must act: nothing can be served at this address."""
