"""Escapes untrusted text before it is shown on a terminal. Pure."""


def plain(text: object) -> str:
    """Escape control characters and invisible characters, which could manipulate a terminal."""
    return "".join(
        character if character.isprintable() else _escaped(character) for character in str(text)
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
