"""All settings of the daemon, as one frozen tree, and the source of each value.

A flag overrides the environment (`REBUNDLE_SECTION__NAME`), which overrides the file (TOML, only if
it is named), which overrides the default. `load` reports the problems of all sources together, each
with its source. Relative paths are relative to the working directory.

A secret comes from the file that its `_file` setting names, else from the environment, else from
`$CREDENTIALS_DIRECTORY`. It never comes from a flag or the TOML file, because these end up in
process lists and repositories.

A scope may have its own settings, `[scopes."bundle/target"]`, only in the file: no variable can
name a scope. They are validated separately. `render_for` merges them over the settings for all
scopes, and `customisation` reads directories of templates.

Only the command line, `customisation`, `bucket` and `service` import this module.
"""

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeGuard, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from daemon import local_files
from daemon.consequences import Invalid
from daemon.stores import locations
from renderers.composition import RenderDefaults
from renderers.limits import DEFAULT_LIMITS, BundleLimits, not_boolean
from renderers.pinning import Policy
from renderers.values import Scope

PREFIX: Final = "REBUNDLE_"
_FLAGS: Final = {
    "bucket": "--bucket",
    "journal.path": "--journal",
    "http.listen": "--listen",
    "publish.accept_older_renderer": "--accept-older-renderer",
}
_SECRETS: Final = {
    ("http", "token"): "http-token",
    ("http", "rollback_token"): "http-rollback-token",
}
_STATE_PLACES: Final = (
    ("STATE_DIRECTORY", "."),
    ("XDG_STATE_HOME", "rebundle"),
    ("HOME", ".local/state/rebundle"),
)

SettingPath = tuple[str, ...]
T = TypeVar("T")


def _bucket(text: str) -> str:
    locations.parse(text)
    return text


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8420 or [::1]:8420")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("must have an IPv6 address in brackets, such as [::1]:8420")
    return text


def _scope_name(text: str) -> str:
    try:
        return str(Scope.parse(text))
    except ValueError:
        raise ValueError(
            'must be named [scopes."BUNDLE/TARGET"], as events name the scope'
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("must name a directory")
    return value


def _split(value: Any) -> Any:
    """Split the text of a variable or flag at commas: these sources have no lists."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _network(value: Any) -> Any:
    try:
        return ipaddress.ip_network(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(
            "must be IP addresses or networks, such as 192.0.2.7 or 2001:db8::/48"
        ) from None


_Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
# An empty path would mean the working directory.
_Directory = Annotated[Path, BeforeValidator(_not_empty)]
_Count = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(not_boolean)]
_Bytes = Annotated[
    ByteSize,
    Field(ge=1024, le=1 << 40),
    BeforeValidator(not_boolean),
    # The limits apply to a number only: pydantic writes keys that JSON Schema does not know.
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*(\d*\.?\d+)\s*(\w+)?"},
                {"type": "integer", "minimum": 1024, "maximum": 1 << 40},
            ]
        }
    ),
]
_Seconds = Annotated[
    float, Field(gt=0, le=86_400, allow_inf_nan=False), BeforeValidator(not_boolean)
]
_Days = Annotated[int, Field(ge=1, le=3650), BeforeValidator(not_boolean)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class JournalSettings(_Section):
    """The embedded journal of events."""

    path: Path = Field(
        Path("var/journal.db"), description="The file. Its lock and its log are next to it."
    )
    max_unacknowledged_events: _Count = Field(
        100_000, description="With this many waiting events, intake answers 503."
    )
    max_unacknowledged_bytes: _Bytes = Field(
        ByteSize(1 << 30), description="With this size of waiting events, intake answers 503."
    )
    identity_days: _Days = Field(
        30, description="How long the id of an event is kept, to detect repetitions."
    )
    body_days: _Days = Field(7, description="How long the body of a settled event is kept.")


class HttpSettings(_Section):
    """The intake over HTTP."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        "127.0.0.1:8420", description="HOST:PORT to bind."
    )
    token_file: Path | None = Field(
        None, description="File with the token for sending and looking up events; 0600 or 0640."
    )
    rollback_token_file: Path | None = Field(
        None, description="File with the token for rollbacks; 0600 or 0640."
    )
    token: SecretStr | None = Field(
        None, description="From the environment only; prefer token_file."
    )
    rollback_token: SecretStr | None = Field(
        None, description="From the environment only; prefer rollback_token_file."
    )
    max_body_bytes: _Bytes = Field(
        ByteSize(4 << 20), description="A larger body is refused with 413."
    )
    max_batch_events: _Count = Field(100, description="Most events in one batch.")
    max_depth: Annotated[int, Field(ge=4, le=128), BeforeValidator(not_boolean)] = Field(
        32, description="Most levels of nesting in a body."
    )
    max_requests: _Count = Field(
        64, description="Requests with events served at the same time; more are answered 503."
    )
    body_seconds: _Seconds = Field(
        10.0, description="A body that takes longer is refused with 408."
    )
    max_connections: _Count = Field(
        1000,
        description="Most open connections; fewer if the soft limit of open files (`ulimit -n`) "
        "is low.",
    )
    max_connections_per_peer: _Count | None = Field(
        None,
        description="Most connections of one IPv4 address or IPv6 /64; default: half of "
        "max_connections.",
    )
    trusted_proxies: Annotated[tuple[_Network, ...], BeforeValidator(_split)] = Field(
        (),
        description="Addresses or networks without that limit: all clients of a proxy share "
        "its address.",
    )

    @property
    def address(self) -> tuple[str, int]:
        """Return the host, without brackets, and the port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


class LogSettings(_Section):
    """Logging to standard error."""

    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged."
    )


class PublishSettings(_Section):
    """Publishing: retries, time limits and rules for content."""

    retry_first_seconds: _Seconds = Field(
        0.5, description="Wait before the second try; it doubles, with jitter of ±50 %."
    )
    retry_max_seconds: _Seconds = Field(
        60.0, description="The longest wait between two tries, before jitter; retries do not end."
    )
    timeout_seconds: _Seconds = Field(
        120.0, description="Limit of one call to the bucket; a whole listing has ten times that."
    )
    accept_older_renderer: bool = Field(
        False, description="Publish although a newer release rendered the desired publication."
    )
    pinning: Policy = Field(
        "off",
        description="Images by tag and artifacts without a digest: off, warn, or require (a "
        "dead letter).",
    )
    live_tree_seconds: _Seconds = Field(
        60.0, description="Mean time between two checks of a live tree."
    )
    gather_seconds: Annotated[float, Field(ge=0, le=60), BeforeValidator(not_boolean)] = Field(
        0.5,
        description="How long a batch waits for more events while a backlog is read. A lone event "
        "never waits.",
    )
    lanes_at_once: _Count = Field(
        8,
        description="How many scopes are published to at the same time. One that has waited for "
        "the bucket for a second does not count. The calls to the bucket share 16 threads.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.retry_first_seconds > self.retry_max_seconds:
            raise ValueError("retry_first_seconds must not be above retry_max_seconds")
        return self


class RetentionSettings(_Section):
    """Which publications stay for rollbacks, besides those live, desired or pinned."""

    newest: Annotated[int, Field(ge=1, le=100), BeforeValidator(not_boolean)] = Field(
        20,
        description="Number of newest publications of a scope that stay, within the pointer's 100.",
    )
    days: Annotated[int, Field(ge=0, le=3650), BeforeValidator(not_boolean)] = Field(
        30, description="Publications superseded in the last so many days stay, within those 100."
    )
    dropped_days: Annotated[int, Field(ge=7, le=3650), BeforeValidator(not_boolean)] = Field(
        7, description="How long the objects of publications that dropped out of those 100 stay."
    )
    grace_hours: Annotated[
        float, Field(ge=1, le=720, allow_inf_nan=False), BeforeValidator(not_boolean)
    ] = Field(
        24.0, description="Age at which unreferenced objects may be deleted, by the bucket's clock."
    )
    every_hours: Annotated[
        float, Field(ge=0, le=720, allow_inf_nan=False), BeforeValidator(not_boolean)
    ] = Field(
        6.0, description="Mean time between two collections; 0: never, use `rebundle gc --all`."
    )
    delete: bool = Field(
        True,
        description="false: the daemon only releases; other credentials run `rebundle gc --all "
        "--only delete`.",
    )


class ScopeSettings(_Section):
    """Settings of one scope. They override those for all scopes."""

    templates: _Directory | None = Field(
        None, description="Directory of templates; overrides the one for all scopes."
    )
    render: RenderDefaults = Field(
        RenderDefaults(), description="Any part of render; mappings are merged."
    )


class SigningSettings(_Section):
    """Keys that sign publications and pointers; `rebundle keys generate` creates one."""

    key_file: _Directory | None = Field(
        None,
        description="Private key (PEM), 0600 or 0640; else $CREDENTIALS_DIRECTORY/signing-key.",
    )
    second_key_file: _Directory | None = Field(
        None, description="A second key that also signs, during a change of keys."
    )
    freshness_minutes: Annotated[int, Field(ge=0, le=10_080), BeforeValidator(not_boolean)] = Field(
        0,
        description="How long freshness.json is valid, for readers that require it; 0: it is "
        "not written.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.key_file is None and (self.second_key_file is not None or self.freshness_minutes):
            raise ValueError("needs key_file: there is no key to sign with")
        return self


class TrustSettings(_Section):
    """Trusted signatures. The policy is a file on this machine, never in the bucket."""

    policy: _Directory | None = Field(
        None,
        description="The trust policy (`rebundle keys trust POLICY PUBLIC`); without one, "
        "signatures are not required.",
    )
    state_file: _Directory | None = Field(
        None,
        description="File with the highest sequence of each scope; default: below the user's "
        "state directory.",
    )


class Settings(_Section):
    """All settings."""

    bucket: Annotated[str, AfterValidator(_bucket)] = Field(
        "var/bucket", description="A directory, or a URL: file://, s3:// or gs://."
    )
    drain_seconds: _Seconds = Field(
        25.0, description="How long a stop may take before the process ends."
    )
    templates: _Directory | None = Field(
        None, description="Directory whose files replace the built-in templates of the same name."
    )
    journal: JournalSettings = JournalSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    publish: PublishSettings = PublishSettings()
    retention: RetentionSettings = RetentionSettings()
    signing: SigningSettings = SigningSettings()
    trust: TrustSettings = TrustSettings()
    limits: BundleLimits = DEFAULT_LIMITS
    render: RenderDefaults = RenderDefaults()
    scopes: dict[Annotated[str, AfterValidator(_scope_name)], ScopeSettings] = Field(
        {}, description='Settings of one scope: [scopes."BUNDLE/TARGET"] with render and templates.'
    )

    def render_for(self, scope: Scope) -> RenderDefaults:
        """Return the render defaults of a scope: its own, merged over those for all scopes."""
        own = self.scopes.get(str(scope))
        if own is None:
            return self.render
        merged = _merged(
            self.render.model_dump(exclude_unset=True), own.render.model_dump(exclude_unset=True)
        )
        return RenderDefaults.model_validate(merged)


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in override.items():
        old = merged.get(name)
        merged[name] = (
            _merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
        )
    return merged


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One fault of one setting. It never contains the value of a secret."""

    setting: str
    """Dotted, such as `http.listen`; empty for a whole file."""
    source: str
    """`flag --listen`, `environment REBUNDLE_HTTP__LISTEN`, `rebundle.toml:12` or `default`."""
    message: str
    """What is wrong, and what to do."""

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.setting}: {self.message}"
            if self.setting
            else f"{self.source}: {self.message}"
        )


class SettingsError(Invalid):
    """The configuration is invalid. Has all its problems."""

    def __init__(self, *problems: SettingProblem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the source of each setting that is not a default."""

    settings: Settings
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, setting: str) -> str:
        """Return the source of a setting with a dotted name."""
        return self.origins.get(setting, "default")

    def shown(self) -> Mapping[str, tuple[Any, str]]:
        """Return value and origin of all settings by name, as JSON types; secrets are masked."""
        tree = self.settings.model_dump(mode="json")
        # For a scope show only what is set there: a default would look like an override.
        set_for_scopes = self.settings.model_dump(
            mode="json", include={"scopes"}, exclude_unset=True
        )
        tree["scopes"] = set_for_scopes.get("scopes", {})
        return {name: (value, self.origin(name)) for name, value in sorted(_leaves(tree))}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors."""
    described = Settings.model_json_schema()
    for _, name in _SECRETS:
        del described["$defs"][HttpSettings.__name__]["properties"][name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": "rebundle.toml",
    }


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config_file: Path | None,
    *,
    secrets: bool = True,
) -> Loaded:
    """Load the settings of all sources.

    `flags` has dotted names; None means that a flag is not set.

    Without `secrets` no secret is read and the settings have none: a command that only reads the
    bucket must also work for users without permission to read the daemon's tokens.

    Raises:
        SettingsError: with all problems of all sources.
    """
    problems: list[SettingProblem] = []
    given = _signing_key(environ)
    if config_file is not None:
        given |= _known_settings(_from_file(config_file, problems), problems)
    given |= _known_settings(_from_environment(environ, problems), problems)
    given |= _known_settings(_from_flags(flags), problems)
    if ("trust", "policy") in given:
        given = _state_file(environ) | given
    if secrets:
        _resolve_secrets(given, environ, problems)
    else:
        given = {path: value for path, value in given.items() if path not in _SECRETS}
    try:
        settings = Settings.model_validate(_nested(given))
    except ValidationError as error:
        problems += _validation_problems(error, given)
        raise SettingsError(*sorted(problems, key=_place)) from None
    if secrets:
        problems += _http_problems(settings, given)
    if problems:
        raise SettingsError(*sorted(problems, key=_place))
    return Loaded(settings, {".".join(path): value.source for path, value in given.items()})


@dataclass(frozen=True, slots=True)
class _LayeredValue:
    value: Any = field(repr=False)
    source: str
    in_public: bool = False
    """Whether the source is a flag or the file, where secrets are not allowed."""


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    for name, value in flags.items():
        if value is not None:
            plain = str(value) if isinstance(value, Path) else value
            yield (
                tuple(name.split(".")),
                _LayeredValue(plain, f"flag {_FLAGS.get(name, '--' + name)}", in_public=True),
            )


def _from_environment(
    environ: Mapping[str, str], problems: list[SettingProblem]
) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    for name, value in sorted(environ.items()):
        # Compose passes a variable that is not set as an empty one.
        if name.startswith(PREFIX) and value and _is_setting(name):
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if path[0] == "scopes":
                advice = (
                    'no variable can name a scope: write [scopes."BUNDLE/TARGET"] into the '
                    "settings file"
                )
                problems.append(SettingProblem(".".join(path), f"environment {name}", advice))
            else:
                yield path, _LayeredValue(value, f"environment {name}")


def _is_setting(name: str) -> bool:
    """Whether a variable is meant as a setting.

    For a service called rebundle, Kubernetes sets REBUNDLE_PORT, REBUNDLE_SERVICE_HOST and more in
    every container. So a name without `__` counts only if it is, or nearly is, the name of a
    setting without a section.
    """
    plain = name.removeprefix(PREFIX).lower()
    return "__" in plain or bool(
        difflib.get_close_matches(plain, Settings.model_fields, n=1, cutoff=0.8)
    )


def _from_file(
    path: Path, problems: list[SettingProblem]
) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        problems.append(
            SettingProblem(
                "", str(path), f"cannot be read ({error.strerror}); --config names the file"
            )
        )
        return
    except UnicodeDecodeError:
        problems.append(SettingProblem("", str(path), "is not UTF-8, so it is not TOML"))
        return
    except tomllib.TOMLDecodeError as error:
        problems.append(SettingProblem("", str(path), f"is not TOML: {error}"))
        return
    lines = _line_numbers(text)
    for parts, value in _leaf_paths(tree):
        line = _longest_prefix(lines, parts)
        yield parts, _LayeredValue(value, f"{path}:{line}" if line else str(path), in_public=True)


def _longest_prefix(values: Mapping[SettingPath, T], path: SettingPath) -> T | None:
    """Return the value of the path or, without one, of the nearest section above it."""
    prefixes = (path[:length] for length in range(len(path), 0, -1))
    return next((values[prefix] for prefix in prefixes if prefix in values), None)


_TABLE: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def _line_numbers(text: str) -> dict[SettingPath, int]:
    """Return the line number of each key, which tomllib does not report.

    This is an approximation for messages. Values are never read in this way.
    """
    numbers: dict[SettingPath, int] = {}
    table: SettingPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _parts(header[1])
            numbers.setdefault(table, number)
        elif key := _KEY.match(line):
            numbers.setdefault(table + _parts(key[1]), number)
    return numbers


def _parts(dotted: str) -> SettingPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _leaf_paths(
    tree: Mapping[str, Any], above: SettingPath = ()
) -> Iterator[tuple[SettingPath, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaf_paths(value, (*above, name))
        else:
            yield (*above, name), value


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((".".join(path), value) for path, value in _leaf_paths(tree))


def _known_settings(
    layer: Iterable[tuple[SettingPath, _LayeredValue]], problems: list[SettingProblem]
) -> dict[SettingPath, _LayeredValue]:
    """Return the values of a layer that are settings, and add the others to the problems."""
    known: dict[SettingPath, _LayeredValue] = {}
    for path, given in layer:
        name = ".".join(path)
        match _kind_at(path):
            case "setting" if path in _SECRETS and given.in_public:
                advice = (
                    f"must not hold a secret: set {name}_file or the variable {_variable(path)}"
                )
                problems.append(SettingProblem(name, given.source, advice))
            case "setting":
                known[path] = given
            case "scope" if given.value == {}:
                known[path] = given  # so that its name is validated
            case "section" if given.value == {}:
                pass
            case "section" | "scope":
                problems.append(
                    SettingProblem(name, given.source, "is a section: set the settings in it")
                )
            case "nothing":
                problems.append(
                    SettingProblem(name, given.source, f"is not a setting{_suggestion(path)}")
                )
    return known


def _kind_at(path: SettingPath) -> Literal["setting", "section", "scope", "nothing"]:
    """Return what is at a path of the settings tree."""
    node: Any = Settings
    for name in path:
        if get_origin(node) is dict:
            node = get_args(node)[1]
        elif _is_section(node) and name in node.model_fields:
            node = node.model_fields[name].annotation
        else:
            return "nothing"
    if node is ScopeSettings:
        return "scope"
    return "section" if get_origin(node) is dict or _is_section(node) else "setting"


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _suggestion(path: SettingPath) -> str:
    if path[0] == "scopes" and len(path) > 2:
        if "/" not in path[1]:
            return '; a scope is one name in quotes: [scopes."BUNDLE/TARGET"]'
        above, name, names = (
            f"{path[0]}.{path[1]}.",
            ".".join(path[2:]),
            list(_names(ScopeSettings)),
        )
    else:
        above, name, names = "", ".".join(path), list(_names(Settings))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    same_end = [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]]
    best = near or same_end
    return f"; did you mean {above}{best[0]}?" if best else "; `rebundle config schema` lists them"


def _names(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        if _is_section(info.annotation):
            yield from _names(info.annotation, f"{above}{name}.")
        else:
            yield above + name


def _variable(path: SettingPath) -> str:
    return PREFIX + "__".join(path).upper()


def _nested(given: Mapping[SettingPath, _LayeredValue]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in given.items():
        section = tree
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value.value
    return tree


def _validation_problems(
    error: ValidationError, given: Mapping[SettingPath, _LayeredValue]
) -> Iterator[SettingProblem]:
    for fault in error.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in fault["loc"] if part != "[key]")
        faulty = _longest_prefix(given, path)
        name = ".".join(path)
        # The fault may be one of a section: then all sources of its settings are named.
        below = [value.source for other, value in given.items() if other[: len(path)] == path]
        source = faulty.source if faulty else ", ".join(dict.fromkeys(below)) or "default"
        value = f" (found {_shown_value(faulty.value)})" if faulty and path not in _SECRETS else ""
        yield SettingProblem(name, source, f"{_expected(fault)}{value}")


_EXPECTED: Final = {
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "byte_size": "must be a number of bytes, such as 4194304 or 4MiB",
    "byte_size_unit": "must be a number of bytes, such as 4194304 or 4MiB",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}
"""What a value must be, by the type of pydantic's error; pydantic's texts are for programmers."""


def _expected(fault: Mapping[str, Any]) -> str:
    if words := _EXPECTED.get(fault["type"]):
        # pydantic has the limits of a float as floats: 24.0.
        limits = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in fault.get("ctx", {}).items()
        }
        return words.format(**limits)
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{message[:1].lower()}{message[1:]}".replace("input should be", "must be", 1)


def _shown_value(value: Any) -> str:
    """A value in JSON: text has quotes."""
    if not isinstance(value, str):
        return json.dumps(value, default=str)[:80]
    text = re.sub(r"(?<=://)[^/@]*@", "…@", value)
    return json.dumps(text if len(text) <= 80 else text[:79] + "…", ensure_ascii=True)


def _place(problem: SettingProblem) -> tuple[str, int]:
    """Sorts problems of one file by their lines."""
    file, _, line = problem.source.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (problem.source, 0)


def _signing_key(environ: Mapping[str, str]) -> dict[SettingPath, _LayeredValue]:
    """Return the setting of a signing key that the service manager provides."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder or not os.path.lexists(key := Path(folder) / "signing-key"):
        return {}
    return {("signing", "key_file"): _LayeredValue(str(key), "$CREDENTIALS_DIRECTORY/signing-key")}


def _state_file(environ: Mapping[str, str]) -> dict[SettingPath, _LayeredValue]:
    """Return the default of trust.state_file: in the state directory of the service or user."""
    for variable, below in _STATE_PLACES:
        if folder := environ.get(variable, "").partition(":")[0]:
            return {
                ("trust", "state_file"): _LayeredValue(
                    str(Path(folder, below, "accepted.json")), f"${variable}"
                )
            }
    return {}


def _resolve_secrets(
    given: dict[SettingPath, _LayeredValue],
    environ: Mapping[str, str],
    problems: list[SettingProblem],
) -> None:
    """Read all secrets (`_file` setting, else environment, else $CREDENTIALS_DIRECTORY)."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    for path, credential in _SECRETS.items():
        file = (*path[:-1], path[-1] + "_file")
        if file in given:
            given.pop(path, None)
            source = f"file {given[file].value}, named by {given[file].source}"
            _read_secret(given, path, Path(str(given[file].value)), source, problems)
        elif path in given:
            _check_secret(path, given[path], problems)
        elif directory and os.path.lexists(Path(directory) / credential):
            source = f"$CREDENTIALS_DIRECTORY/{credential}"
            given[file] = _LayeredValue(str(Path(directory) / credential), source)
            _read_secret(given, path, Path(directory) / credential, source, problems)


def _read_secret(
    given: dict[SettingPath, _LayeredValue],
    path: SettingPath,
    file: Path,
    source: str,
    problems: list[SettingProblem],
) -> None:
    try:
        given[path] = _LayeredValue(local_files.read_token(file), source)
    except local_files.Unsafe as error:
        problems.append(SettingProblem(".".join(path), source, str(error)))
    except OSError as error:
        problems.append(
            SettingProblem(".".join(path), source, f"cannot be read ({error.strerror})")
        )
    except ValueError as error:
        # Also raised by a path with a NUL, which cannot be opened.
        problems.append(SettingProblem(".".join(path), source, str(error)))


def _check_secret(path: SettingPath, given: _LayeredValue, problems: list[SettingProblem]) -> None:
    try:
        local_files.check_token(str(given.value))
    except ValueError as error:
        problems.append(SettingProblem(".".join(path), given.source, str(error)))


def _http_problems(
    settings: Settings, given: Mapping[SettingPath, _LayeredValue]
) -> Iterator[SettingProblem]:
    http = settings.http
    if http.token is None and not _is_loopback(http.address[0]):
        source = given["http", "listen"].source
        advice = (
            f"{http.listen} can be reached from other machines: set http.token_file, or "
            "listen on 127.0.0.1"
        )
        yield SettingProblem("http.listen", source, advice)
    if http.token is not None and http.token == http.rollback_token:
        source = given["http", "rollback_token"].source
        yield SettingProblem(
            "http.rollback_token",
            source,
            "must differ from http.token: rollback is a separate role",
        )
