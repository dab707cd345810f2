"""The publication protocol: what is stored, in which order, and who wins.

Pure: `pointer` and `manifest` (what the documents are), `archive` (bytes of a state), `protocol` (which pointer may
follow which). Acting: `publisher` (upload, compare-and-swap, resolve), `reader` (verified reads), `sync` (the tree
that operators see), `operations` (operators' verbs).
"""
