"""The verbs of `rebundle`, one module each. `daemon.cli.app` has their table; a verb is imported when it is called."""
