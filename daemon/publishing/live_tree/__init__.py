"""The live tree.

`ownership` decides what happens to every file (pure). `sync` reads the tree and applies the plan.
"""
