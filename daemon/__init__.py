"""Composes events and renderers, and does the I/O: lanes, publication, HTTP, the command line.

Not the `python-daemon` distribution, which ships a top-level package of this name too: the two cannot be
installed together (docs/adr).
"""

__version__ = "0.1.0"
"""Of the distribution, too: pyproject.toml takes it from here."""
