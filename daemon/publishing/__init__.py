"""The publication protocol: what is stored, in which order, and which writer wins.

Pure modules: `pointer` and `manifest` (the documents), `archive` (the bytes of a state), and
`protocol` (which pointer may follow which). Modules that access the bucket: `publisher` (uploads,
compare-and-swap, resolving its outcome), `reader` (verified reads), `live_tree` (the files that
operators see), and `operator_commands` (commands of operators).
"""
