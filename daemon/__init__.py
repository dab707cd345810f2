"""Composes events and renderers, and does the I/O: lanes, publication, HTTP, the command line.

Not the `python-daemon` distribution, which ships a top-level package of this name too: the two cannot be
installed together (docs/adr).
"""
