"""Garbage collection and recovery.

The rules are pure (`retention_rules`, `recovery_rules`). The other modules do the I/O.
"""
