"""Where publications are kept: one port (`port`), one adapter a file. Only `daemon.bucket` chooses one."""
