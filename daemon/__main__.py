"""`python -m daemon` is `rebundle`."""

from daemon.cli import main

main()
