"""Writes the pages that are made from the code: `python docs/generate.py`.

A test compares the pages with the code.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from daemon import exit_codes
from daemon.cli.app import build
from daemon.settings import PREFIX, Settings

HERE = Path(__file__).parent

_SETTINGS_HEAD = """\
# Settings

Made from `daemon/settings.py` by `python docs/generate.py`.

A flag overrides the environment, which overrides the file (`--config rebundle.toml`; without it no
file is read), which overrides the default. `rebundle config check` reports every problem at once
with its source, `config show` each value and its source, and `config schema` prints a JSON Schema
for editors.

A secret comes from the file that its `_file` setting names, else from its variable, else from
`$CREDENTIALS_DIRECTORY/http-token` or `http-rollback-token`; never from a flag or the TOML file.
The file may be readable by its owner and one group only (0600, 0640, 0440). It is read again when
it changes.

```toml
bucket = "/srv/bundles"

[http]
listen = "0.0.0.0:8420"
token_file = "/run/secrets/rebundle-token"

[render]
labels.team = "vision"

[scopes."visual-anomaly/core-versions"]
templates = "/etc/rebundle/visual-anomaly"
render.restart = "always"
render.labels.line = "north"
```

A scope may have its own settings in `[scopes."BUNDLE/TARGET"]`. They are possible only in the file,
because no variable can name a scope. Its `render` may set any part of the `render` below. Labels,
registries and amounts are merged; where both set the same one, the scope's value applies. Its
`templates` override the templates for all scopes. A change takes effect when the daemon starts
again, and is published by the next event of the scope or by `rebundle republish`. See
[customising.md](customising.md).

| setting | variable | default | meaning |
| --- | --- | --- | --- |
"""


_CLI_HEAD = """\
# The command line

Generated from the help of the command by `python docs/generate.py`.

Every command works on the bucket directly, with the same compare-and-swap as the daemon. It does
not matter whether a daemon is running. The bucket is `--bucket`, else `REBUNDLE_BUCKET`, else that
of the settings file, else `var/bucket`.

Data goes to standard output, messages to standard error. `-o json` and `-o yaml` print one document
with `schemaVersion` 1: within a version, fields are only added. Output is not coloured if standard
output is not a terminal, with `--no-color`, or if `NO_COLOR` is set.

A command that a message suggests has the `--bucket`, `--config` and `--journal` of the command that
printed the message, so that a copy of it acts on the same bucket and journal.

## Exit codes

| code | meaning |
| --- | --- |
"""


def cli_page() -> str:
    """The reference of every command."""
    table = "".join(f"| {code} | {words} |\n" for code, words in exit_codes.MEANINGS.items())
    commands = build().generate_docs(output_format="markdown", recursive=True, heading_level=2)
    return f"{_CLI_HEAD}{table}\n{commands.strip()}\n"


def settings_page() -> str:
    """The reference of all settings."""
    return _SETTINGS_HEAD + "".join(
        f"| `{name}` | {variable} | {default} | {words} |\n"
        for name, variable, default, words in rows()
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
    shown = (
        ""
        if default in (None, ()) or isinstance(default, SecretStr | BaseModel | dict)
        else f"`{default}`"
    )
    variable = "" if path == ("scopes",) else f"`{PREFIX}{'__'.join(path).upper()}`"
    return ".".join(path), variable, shown, field.description or ""


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    (target / "settings.md").write_text(settings_page())
    (target / "cli.md").write_text(cli_page())
