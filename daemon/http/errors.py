"""Errors of the HTTP server, in a module that is cheap to import."""


class ListenFailed(Exception):
    """Operator action needed: the server cannot listen at this address."""
