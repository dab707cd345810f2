"""The live tree: `ownership` decides what happens to each file (pure), `sync` reads the tree and applies the plan."""
