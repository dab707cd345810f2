"""Escapes text that others wrote, before it is shown. Pure."""


def plain(text: object) -> str:
    """The text with every character that could steer a terminal, or hide, written as an escape."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
