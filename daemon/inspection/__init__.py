"""What commands and the HTTP API show of a bucket and a journal, as frozen values.

The rules are here too, so that all commands agree: why a state is not live (`scopes`), what needs
attention (`status`), which stored facts contradict each other (`checks`), and how two states differ
(`comparison`). `documents` turns the values into JSON. Nothing here prints.
"""
