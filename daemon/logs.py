"""Loggers of code that commands use, too.

Importing structlog takes as long as most of what a command that only reads imports. So it is
imported with the first event.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger


class Logger:
    """A structlog logger that is made when it is used.

    In a process that has configured no logs, which is a command, only warnings are shown, on
    standard error.
    """

    def __init__(self, name: str) -> None:
        """Prepare a logger with this name."""
        self._name = name

    def info(self, event: str, **fields: object) -> None:
        """Log an event of normal operation."""
        self._logger().info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log an event that an operator should look at."""
        self._logger().warning(event, **fields)

    def _logger(self) -> "BoundLogger":
        import structlog  # noqa: PLC0415  # see above

        from daemon import telemetry  # noqa: PLC0415  # imports structlog and the metrics

        if not structlog.is_configured():
            return telemetry.warning_logger()
        logger: BoundLogger = structlog.get_logger(self._name)
        return logger
