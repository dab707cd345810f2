"""The publication protocol: what is stored, in which order, and which writer wins.

Pure modules: `pointer` and `manifest` (the documents), `archive` (the bytes of a state), `grammar`
and `documents` (what a field may hold, and the one form of a document), `protocol` (which pointer
may follow which), and `verification` (whether a document may be used).

Modules that access the bucket: `reader` (verified reads), `publisher` (uploads, compare-and-swap,
resolving its outcome), `operator_commands` (rollback, hold, quarantine, pin), `live_tree` (the
files that operators see), `maintenance` (garbage collection, recovery), and `bucket_identity`
(which bucket this is). `trust` has the keys, the trust policy and the memory of sequences.
"""
