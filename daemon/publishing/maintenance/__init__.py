"""Garbage collection and recovery. The rules are pure (`retention_rules`, `recovery_rules`); the others do the I/O."""
