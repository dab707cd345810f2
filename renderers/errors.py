"""Errors of rendering. Each is final for its composition: the same input fails again."""


class RenderError(Exception):
    """Base class of all errors of this package: do not retry, report the reason."""


class Invalid(RenderError):
    """The input is wrong: a composition or a template."""


class Damaged(RenderError):
    """Rendered text is not what the composition demands."""


class UnsafeText(Invalid):
    """The rules of `identifiers` accepted a text that its output format (`sink`) cannot hold."""

    def __init__(self, sink: str, text: str) -> None:
        super().__init__(f"{text!r} cannot be written in {sink}")
        self.sink = sink
        self.text = text


class TemplateFault(Invalid):
    """A custom template cannot be used: its author must correct it."""

    def __init__(self, name: str, line: int, message: str) -> None:
        """`line` counts from 1."""
        super().__init__(f"template {name}:{line}: {message}")
        self.name = name
        self.line = line
        self.message = message


class GateFailure(Damaged):
    """A rendered file, read back, contradicts the composition: the bundle must not be published."""

    def __init__(self, file: str, line: int, what: str, found: str) -> None:
        """`line` counts from 1; `what` is the expected content and, where useful, its place."""
        super().__init__(f"{file}:{line}: expected {what}, found {found}")
        self.file = file
        self.line = line
        self.what = what
        self.found = found
