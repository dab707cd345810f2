"""The commands of `rebundle`, one module each.

`daemon.cli.app` has their table. A module is imported when its command is called.
"""
