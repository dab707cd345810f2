"""Object stores: the port (`port`), and one module or package per adapter.

`daemon.wiring` selects one.
"""
