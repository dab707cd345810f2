"""What can go wrong while rendering. Every one of these is final for its composition: the same input fails again."""


class RenderError(Exception):
    """The composition cannot become a bundle: give it up and say why."""


class UnsafeText(RenderError):
    """A text that its sink cannot hold got past the rules of `identifiers`."""

    def __init__(self, sink: str, text: str) -> None:
        super().__init__(f"{text!r} cannot stand in {sink}")
        self.sink = sink
        self.text = text


class TemplateFault(RenderError):
    """A bundle's own template cannot be used: its author must act."""

    def __init__(self, name: str, line: int, message: str) -> None:
        """`line` counts from 1."""
        super().__init__(f"template {name}:{line}: {message}")
        self.name = name
        self.line = line
        self.message = message


class GateFailure(RenderError):
    """A rendered file, read back, is not what the composition says: nothing of it may be published."""

    def __init__(self, file: str, line: int, what: str, found: str) -> None:
        """`line` counts from 1; `what` names the place and what was expected there."""
        super().__init__(f"{file}:{line}: expected {what}, found {found}")
        self.file = file
        self.line = line
        self.what = what
        self.found = found
