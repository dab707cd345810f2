"""Makes `docker-compose-gen/` in the bucket, the live tree, follow the pointer.

`base/` and README.md follow live; `example/` belongs to operators. `ownership` decides what happens
to every file, and `results` are what a pass reports (both pure). `sync` reads the tree and applies
the plan.
"""
