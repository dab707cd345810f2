"""Every setting of the daemon, as one frozen tree, and where each value came from.

A flag wins over the environment (`REBUNDLE_SECTION__NAME`), that over the file (TOML, only where it is named), that
over the default. All problems of all sources come at once, each with its source. A secret comes from the file its
`_file` setting names, else from the environment, else from `$CREDENTIALS_DIRECTORY`; never from a flag or the TOML
file, which end up in process lists and repositories. Relative paths are relative to the working directory.

A scope may have settings of its own, `[scopes."bundle/target"]`, in the file only: no variable can name it. They are
judged as they stand; `render_for` merges them over those of all, and `customisation` reads directories of templates.

Nothing but the command line, `customisation`, `bucket` and `service` imports this module.
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
from typing import Annotated, Any, Final, Literal, Self, TypeGuard, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from daemon import local_files
from daemon.stores import locations
from renderers.limits import DEFAULT_LIMITS, BundleLimits
from renderers.model import RenderDefaults, Scope
from renderers.pinning import Policy

PREFIX: Final = "REBUNDLE_"
_FLAGS: Final = {
    "bucket": "--bucket",
    "journal.path": "--journal",
    "http.listen": "--listen",
    "publish.accept_older_renderer": "--accept-older-renderer",
}
_SECRETS: Final = {("http", "token"): "http-token", ("http", "rollback_token"): "http-rollback-token"}
_STATE_PLACES: Final = (("STATE_DIRECTORY", "."), ("XDG_STATE_HOME", "rebundle"), ("HOME", ".local/state/rebundle"))

SettingPath = tuple[str, ...]


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


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
        raise ValueError('must be named [scopes."BUNDLE/TARGET"], as events name the scope') from None


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
    """A variable or a flag has no lists: commas separate."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _network(value: Any) -> Any:
    try:
        return ipaddress.ip_network(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be IP addresses or networks, such as 192.0.2.7 or 2001:db8::/48") from None


_Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
# An empty path would be the working directory.
_Directory = Annotated[Path, BeforeValidator(_not_empty)]
_Count = Annotated[int, BeforeValidator(_not_boolean), Field(ge=1, le=10**9)]
_Bytes = Annotated[ByteSize, BeforeValidator(_not_boolean), Field(ge=1024, le=1 << 40)]
_Seconds = Annotated[float, BeforeValidator(_not_boolean), Field(gt=0, le=86_400, allow_inf_nan=False)]
_Days = Annotated[int, BeforeValidator(_not_boolean), Field(ge=1, le=3650)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class JournalSettings(_Section):
    """The embedded source of events."""

    path: Path = Field(Path("var/journal.db"), description="The file; its lock and its log stand beside it.")
    max_unsettled_events: _Count = Field(100_000, description="When this many wait, intake answers 503.")
    max_unsettled_bytes: _Bytes = Field(ByteSize(1 << 30), description="When they are this big, intake answers 503.")
    identity_days: _Days = Field(30, description="How long the id of an event is known.")
    body_days: _Days = Field(7, description="How long the body of a settled event is kept.")


class HttpSettings(_Section):
    """The intake over HTTP."""

    listen: Annotated[str, AfterValidator(_listen)] = Field("127.0.0.1:8420", description="HOST:PORT to bind.")
    token_file: Path | None = Field(
        None, description="File with the token of those who send and look up events; 0600 or 0640."
    )
    rollback_token_file: Path | None = Field(
        None, description="File with the token of those who may roll back; 0600 or 0640."
    )
    token: SecretStr | None = Field(None, description="From the environment only; prefer token_file.")
    rollback_token: SecretStr | None = Field(None, description="From the environment only; prefer rollback_token_file.")
    max_body_bytes: _Bytes = Field(ByteSize(4 << 20), description="A bigger body is refused with 413.")
    max_batch_events: _Count = Field(100, description="Events in one batch.")
    max_depth: Annotated[int, BeforeValidator(_not_boolean), Field(ge=4, le=128)] = Field(
        32, description="Levels of nesting in a body."
    )
    max_requests: _Count = Field(64, description="Events requests served at a time; more are answered 503.")
    body_seconds: _Seconds = Field(10.0, description="A body that takes longer is refused with 408.")
    max_connections: _Count = Field(
        1000, description="Open connections; fewer where the soft limit of open files (`ulimit -n`) is low."
    )
    max_connections_per_peer: _Count | None = Field(
        None, description="Of one IPv4 address or IPv6 /64; half of all if it is not set."
    )
    trusted_proxies: Annotated[tuple[_Network, ...], BeforeValidator(_split)] = Field(
        (), description="Addresses or networks without a limit per peer: all clients of a proxy share its address."
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


class LogSettings(_Section):
    """What is logged to standard error, and how."""

    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else json.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The lowest level that is logged.")


class PublishSettings(_Section):
    """How patiently a lane publishes."""

    retry_first_seconds: _Seconds = Field(0.5, description="Wait before the second try; it doubles, with jitter.")
    retry_max_seconds: _Seconds = Field(60.0, description="The longest wait between two tries; they never end.")
    timeout_seconds: _Seconds = Field(
        120.0, description="Limit of one call to the bucket; a listing, of however many pages, has ten times that."
    )
    accept_older_renderer: bool = Field(False, description="Publish although a newer release rendered what is desired.")
    pinning: Policy = Field(
        "off", description="Images by tag and artifacts without a digest: off, warn, or require (a dead letter)."
    )
    live_tree_seconds: _Seconds = Field(60.0, description="How often a live tree is looked over, on average.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.retry_first_seconds > self.retry_max_seconds:
            raise ValueError("retry_first_seconds must not be above retry_max_seconds")
        return self


class RetentionSettings(_Section):
    """What stays to be rolled back to, beside what is live, desired or pinned; and when the rest is deleted."""

    newest: Annotated[int, BeforeValidator(_not_boolean), Field(ge=1, le=100)] = Field(
        20, description="So many of the newest publications of a scope stay, within the pointer's 100."
    )
    days: Annotated[int, BeforeValidator(_not_boolean), Field(ge=0, le=3650)] = Field(
        30, description="Whatever was superseded less than so many days ago stays, within those 100."
    )
    dropped_days: Annotated[int, BeforeValidator(_not_boolean), Field(ge=7, le=3650)] = Field(
        7, description="How long the objects stay of what those 100 had no room for."
    )
    grace_hours: Annotated[float, BeforeValidator(_not_boolean), Field(ge=1, le=720, allow_inf_nan=False)] = Field(
        24.0, description="How old objects must be that nothing names, by the bucket's clock."
    )
    every_hours: Annotated[float, BeforeValidator(_not_boolean), Field(ge=0, le=720, allow_inf_nan=False)] = Field(
        6.0, description="How often the daemon collects, on average; 0 leaves it to `rebundle gc --all`."
    )
    delete: bool = Field(
        True,
        description="false: the daemon only releases; `rebundle gc --all --only delete` deletes, as somebody else.",
    )


class ScopeSettings(_Section):
    """What one scope has of its own; the rest is as it is for all."""

    templates: _Directory | None = Field(None, description="Directory of templates, over the one for all scopes.")
    render: RenderDefaults = Field(RenderDefaults(), description="Any part of render; of mappings both count.")


class SigningSettings(_Section):
    """With which keys publications and pointers are signed; `rebundle keys generate` makes one."""

    key_file: _Directory | None = Field(
        None,
        description="Private key (PEM), 0600 or 0640; else $CREDENTIALS_DIRECTORY/signing-key.",
    )
    second_key_file: _Directory | None = Field(
        None, description="A key that signs beside the first, while keys are exchanged."
    )
    freshness_minutes: Annotated[int, BeforeValidator(_not_boolean), Field(ge=0, le=10_080)] = Field(
        0, description="How long freshness.json may be believed, for readers that demand it; 0: there is none."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.key_file is None and (self.second_key_file is not None or self.freshness_minutes):
            raise ValueError("needs key_file: there is no key to sign with")
        return self


class TrustSettings(_Section):
    """Whose signatures count here. The policy is a file of this machine, never of the bucket."""

    policy: _Directory | None = Field(
        None,
        description="The trust policy (`rebundle keys trust POLICY PUBLIC`); without one nothing has to be signed.",
    )
    state_file: _Directory | None = Field(
        None, description="Where the highest sequence of each scope is kept; else below the user's state directory."
    )


class Settings(_Section):
    """The whole tree."""

    bucket: Annotated[str, AfterValidator(_bucket)] = Field(
        "var/bucket", description="A directory, or a URL: file://, s3:// or gs://."
    )
    drain_seconds: _Seconds = Field(25.0, description="How long a stop may take before the process leaves.")
    templates: _Directory | None = Field(
        None, description="Directory whose files replace built-in templates of their name."
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
        {}, description='What one scope has of its own: [scopes."BUNDLE/TARGET"] with render and templates.'
    )

    def render_for(self, scope: Scope) -> RenderDefaults:
        """The render defaults of a scope: its own over those of all, mappings joined."""
        own = self.scopes.get(str(scope))
        if own is None:
            return self.render
        merged = _merged(self.render.model_dump(exclude_unset=True), own.render.model_dump(exclude_unset=True))
        return RenderDefaults.model_validate(merged)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One thing that is wrong with one setting. Never holds the value of a secret."""

    setting: str
    """Dotted, such as `http.listen`; empty for a whole file."""
    source: str
    """`flag --listen`, `environment REBUNDLE_HTTP__LISTEN`, `rebundle.toml:12` or `default`."""
    message: str
    """What is wrong, and what to do."""

    def __str__(self) -> str:
        return f"{self.source}: {self.setting}: {self.message}" if self.setting else f"{self.source}: {self.message}"


class SettingsError(Exception):
    """The operator must act: the configuration cannot be used. Holds every problem."""

    def __init__(self, *problems: SettingProblem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the source of each that is not a default."""

    settings: Settings
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, setting: str) -> str:
        """Where the value of the dotted name came from."""
        return self.origins.get(setting, "default")

    def shown(self) -> Mapping[str, tuple[Any, str]]:
        """Each setting's value, as JSON has it, with its origin, sorted by name; secrets are masked."""
        tree = self.settings.model_dump(mode="json")
        # Of a scope only what it says by itself: a default shown there would look like one that wins.
        tree["scopes"] = self.settings.model_dump(mode="json", include={"scopes"}, exclude_unset=True).get("scopes", {})
        return {name: (value, self.origin(name)) for name, value in sorted(_leaves(tree))}


def schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors."""
    described = Settings.model_json_schema()
    for _, name in _SECRETS:
        del described["$defs"][HttpSettings.__name__]["properties"][name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described, "title": "rebundle.toml"}


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], config_file: Path | None, *, secrets: bool = True
) -> Loaded:
    """The settings that these sources make. `flags` has dotted names; None counts as not given.

    Without `secrets` none is read and none is there: a command that only looks at the bucket must work for somebody
    who may not read the daemon's tokens.

    Raises:
        SettingsError: with every problem of every source.
    """
    problems: list[SettingProblem] = []
    given = _signing_key(environ)
    if config_file is not None:
        given |= _known(_from_file(config_file, problems), problems)
    given |= _known(_from_environment(environ, problems), problems)
    given |= _known(_from_flags(flags), problems)
    if ("trust", "policy") in given:
        given = _state_file(environ) | given
    if secrets:
        _resolve_secrets(given, environ, problems)
    else:
        given = {path: one for path, one in given.items() if path not in _SECRETS}
    try:
        settings = Settings.model_validate(_nested(given))
    except ValidationError as error:
        problems += _judged(error, given)
        raise SettingsError(*problems) from None
    if secrets:
        problems += _unsafe(settings, given)
    if problems:
        raise SettingsError(*problems)
    return Loaded(settings, {".".join(path): one.source for path, one in given.items()})


@dataclass(frozen=True, slots=True)
class _LayeredValue:
    value: Any = field(repr=False)
    source: str
    in_public: bool = False
    """A flag or the file: no place for a secret."""


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    for name, value in flags.items():
        if value is not None:
            given = str(value) if isinstance(value, Path) else value
            yield tuple(name.split(".")), _LayeredValue(given, f"flag {_FLAGS.get(name, '--' + name)}", in_public=True)


def _from_environment(
    environ: Mapping[str, str], problems: list[SettingProblem]
) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    for name, value in sorted(environ.items()):
        # An empty variable is how Compose passes on one that is not set.
        if name.startswith(PREFIX) and value and _is_meant(name):
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if path[0] == "scopes":
                advice = 'no variable can name a scope: write [scopes."BUNDLE/TARGET"] into the settings file'
                problems.append(SettingProblem(".".join(path), f"environment {name}", advice))
            else:
                yield path, _LayeredValue(value, f"environment {name}")


def _is_meant(name: str) -> bool:
    """Whether a variable wants to be a setting.

    Kubernetes gives every container REBUNDLE_PORT, REBUNDLE_SERVICE_HOST and more for a service called rebundle:
    a name without `__` counts only when it is, or nearly is, a setting without a section.
    """
    plain = name.removeprefix(PREFIX).lower()
    return "__" in plain or bool(difflib.get_close_matches(plain, Settings.model_fields, n=1, cutoff=0.8))


def _from_file(path: Path, problems: list[SettingProblem]) -> Iterator[tuple[SettingPath, _LayeredValue]]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        problems.append(SettingProblem("", str(path), f"cannot be read ({error.strerror}); --config names the file"))
        return
    except UnicodeDecodeError:
        problems.append(SettingProblem("", str(path), "is not UTF-8, and so no TOML"))
        return
    except tomllib.TOMLDecodeError as error:
        problems.append(SettingProblem("", str(path), f"is not TOML: {error}"))
        return
    lines = _lines(text)
    for parts, value in _leaf_paths(tree):
        line = next((lines[parts[:length]] for length in range(len(parts), 0, -1) if parts[:length] in lines), None)
        yield parts, _LayeredValue(value, f"{path}:{line}" if line else str(path), in_public=True)


_TABLE: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def _lines(text: str) -> dict[SettingPath, int]:
    """The line of each key: tomllib knows none. Good enough for a message; a value is never read from here."""
    found: dict[SettingPath, int] = {}
    table: SettingPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault(table + _parts(key[1]), number)
    return found


def _parts(dotted: str) -> SettingPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _leaf_paths(tree: Mapping[str, Any], above: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaf_paths(value, (*above, name))
        else:
            yield (*above, name), value


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((".".join(path), value) for path, value in _leaf_paths(tree))


def _known(
    layer: Iterable[tuple[SettingPath, _LayeredValue]], problems: list[SettingProblem]
) -> dict[SettingPath, _LayeredValue]:
    """The values of a layer that are settings; the others are problems."""
    known: dict[SettingPath, _LayeredValue] = {}
    for path, given in layer:
        name = ".".join(path)
        match _place(path):
            case "setting" if path in _SECRETS and given.in_public:
                advice = f"a secret has no place here: set {name}_file, or {_variable(path)}"
                problems.append(SettingProblem(name, given.source, advice))
            case "setting":
                known[path] = given
            case "scope" if given.value == {}:
                known[path] = given  # so that its name is judged
            case "section" if given.value == {}:
                pass
            case "section" | "scope":
                problems.append(SettingProblem(name, given.source, "is a section: set what is in it"))
            case "nothing":
                problems.append(SettingProblem(name, given.source, f"is no setting{_suggestion(path)}"))
    return known


def _place(path: SettingPath) -> Literal["setting", "section", "scope", "nothing"]:
    at: Any = Settings
    for name in path:
        if get_origin(at) is dict:
            at = get_args(at)[1]
        elif _is_section(at) and name in at.model_fields:
            at = at.model_fields[name].annotation
        else:
            return "nothing"
    if at is ScopeSettings:
        return "scope"
    return "section" if get_origin(at) is dict or _is_section(at) else "setting"


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _suggestion(path: SettingPath) -> str:
    if path[0] == "scopes" and len(path) > 2:
        if "/" not in path[1]:
            return '; a scope is one name in quotes: [scopes."BUNDLE/TARGET"]'
        above, name, names = f"{path[0]}.{path[1]}.", ".".join(path[2:]), list(_names(ScopeSettings))
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
    for path, one in given.items():
        at = tree
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = one.value
    return tree


def _judged(error: ValidationError, given: Mapping[SettingPath, _LayeredValue]) -> Iterator[SettingProblem]:
    for fault in error.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in fault["loc"] if part != "[key]")
        found = next((given[path[:length]] for length in range(len(path), 0, -1) if path[:length] in given), None)
        name = ".".join(path)
        below = dict.fromkeys(one.source for where, one in given.items() if where[: len(path)] == path)
        source = found.source if found else ", ".join(below) or "default"
        message = fault["msg"].removeprefix("Value error, ")
        shown = f" (found {_shown(found.value)})" if found and path not in _SECRETS else ""
        yield SettingProblem(name, source, f"{message[:1].lower()}{message[1:]}{shown}")


def _shown(value: Any) -> str:
    text = re.sub(r"(?<=://)[^/@]*@", "…@", str(value))
    return json.dumps(text if len(text) <= 80 else text[:79] + "…", ensure_ascii=True)


def _signing_key(environ: Mapping[str, str]) -> dict[SettingPath, _LayeredValue]:
    """Where a service manager puts it."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder or not os.path.lexists(key := Path(folder) / "signing-key"):
        return {}
    return {("signing", "key_file"): _LayeredValue(str(key), "$CREDENTIALS_DIRECTORY/signing-key")}


def _state_file(environ: Mapping[str, str]) -> dict[SettingPath, _LayeredValue]:
    """Where a service manager, or the custom of the system, has state kept."""
    for variable, below in _STATE_PLACES:
        if folder := environ.get(variable, "").partition(":")[0]:
            return {("trust", "state_file"): _LayeredValue(str(Path(folder, below, "accepted.json")), f"${variable}")}
    return {}


def _resolve_secrets(
    given: dict[SettingPath, _LayeredValue], environ: Mapping[str, str], problems: list[SettingProblem]
) -> None:
    """Put each secret's value at its place (`_file` setting, else environment, else $CREDENTIALS_DIRECTORY)."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    for path, credential in _SECRETS.items():
        file = (*path[:-1], path[-1] + "_file")
        if file in given:
            given.pop(path, None)
            source = f"file {given[file].value}, named by {given[file].source}"
            _keep_secret(given, path, Path(str(given[file].value)), source, problems)
        elif path in given:
            _check_secret(path, given[path], problems)
        elif directory and os.path.lexists(Path(directory) / credential):
            source = f"$CREDENTIALS_DIRECTORY/{credential}"
            given[file] = _LayeredValue(str(Path(directory) / credential), source)
            _keep_secret(given, path, Path(directory) / credential, source, problems)


def _keep_secret(
    given: dict[SettingPath, _LayeredValue], path: SettingPath, file: Path, source: str, problems: list[SettingProblem]
) -> None:
    try:
        given[path] = _LayeredValue(local_files.read_token(file), source)
    except local_files.Unsafe as error:
        problems.append(SettingProblem(".".join(path), source, str(error)))
    except OSError as error:
        problems.append(SettingProblem(".".join(path), source, f"cannot be read ({error.strerror})"))
    except ValueError as error:
        # Of a path, too: one with a NUL in it cannot be opened.
        problems.append(SettingProblem(".".join(path), source, str(error)))


def _check_secret(path: SettingPath, given: _LayeredValue, problems: list[SettingProblem]) -> None:
    try:
        local_files.check_token(str(given.value))
    except ValueError as error:
        problems.append(SettingProblem(".".join(path), given.source, str(error)))


def _unsafe(settings: Settings, given: Mapping[SettingPath, _LayeredValue]) -> Iterator[SettingProblem]:
    http = settings.http
    if http.token is None and not _is_loopback(http.address[0]):
        source = given["http", "listen"].source
        advice = f"{http.listen} can be reached from other machines: set http.token_file, or listen on 127.0.0.1"
        yield SettingProblem("http.listen", source, advice)
    if http.token is not None and http.token == http.rollback_token:
        source = given["http", "rollback_token"].source
        yield SettingProblem("http.rollback_token", source, "must differ from http.token: rolling back is another role")
