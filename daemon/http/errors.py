"""Errors of the HTTP server, in a module that is cheap to import."""

from daemon.consequences import OperatorActionNeeded


class ListenFailed(OperatorActionNeeded):
    """The server cannot listen at this address."""
