"""Writes the pages that are made from the code: `python docs/generate.py`. A test compares them with the code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from daemon.settings import PREFIX, Settings

HERE = Path(__file__).parent

_HEAD = """\
# Settings

Made from `daemon/settings.py` by `python docs/generate.py`.

A flag wins over the environment, that over the file (`--config rebundle.toml`; no file is read by itself), that over
the default. `rebundle config check` reports every problem at once with its source, `config show` each value and where
it came from, `config schema` a JSON Schema for editors.

A secret comes from the file that its `_file` setting names, else from its variable, else from
`$CREDENTIALS_DIRECTORY/http-token` or `http-rollback-token`; never from a flag or the TOML file.

```toml
bucket = "/srv/bundles"

[http]
listen = "0.0.0.0:8420"
token_file = "/run/secrets/rebundle-token"
```

| setting | variable | default | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """The reference of all settings."""
    return _HEAD + "".join(
        f"| `{name}` | `{variable}` | {default} | {words} |\n" for name, variable, default, words in rows()
    )


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Name, variable, default and meaning of each setting."""
    for name, field in Settings.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for below, inner in kind.model_fields.items():
                yield _row((name, below), inner)
        else:
            yield _row((name,), field)


def _row(path: tuple[str, ...], field: Any) -> tuple[str, str, str, str]:
    default = field.get_default(call_default_factory=True)
    shown = "" if default is None or isinstance(default, SecretStr | BaseModel | dict) else f"`{default}`"
    return ".".join(path), PREFIX + "__".join(path).upper(), shown, field.description or ""


if __name__ == "__main__":
    (HERE / "settings.md").write_text(settings_page())
