"""Composes events and renderers, and does the I/O: lanes, publication, HTTP, the command line.

The `python-daemon` distribution has a top-level package of the same name. The two cannot be
installed together (ADR 1).
"""

__version__ = "0.1.0"
"""Of the distribution, too: pyproject.toml takes it from here."""
