"""Garbage collection and recovery.

The rules are pure (`retention_rules`, `recovery_rules` with its `recovery_remains` and
`recovery_report`). The other modules do the I/O.
"""
