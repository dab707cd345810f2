"""Object stores: the port (`port`), and one module or package per adapter.

`daemon.bucket` selects one.
"""
