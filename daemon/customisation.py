"""Reads the custom templates and render defaults of scopes, and tests them on a sample.

A directory of templates has files with the names of built-in ones, without subdirectories. Names
that begin with a dot are skipped: editors and mounted ConfigMaps create them. Any other file has to
be a template, because an unknown name is a mistake.

Directories are read once, when a process starts. A daemon that followed their changes would publish
a half-finished edit.

`renderers.self_test` checks here what the templates make of a sample. The gate checks what they
make of a state before it is published.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.settings import SettingProblem, Settings, SettingsError
from renderers import self_test
from renderers.bundle import Customisation
from renderers.errors import RenderError, TemplateFault
from renderers.template_set import Templates
from renderers.values import Scope

_MAX_BYTES: Final = 256 << 10
_FORBIDDEN: Final = {
    "\r": "has a carriage return: save it with LF line ends",
    "\0": "has a NUL",
    "\ufeff": "has a byte order mark: save it without",
}


@dataclass(frozen=True, slots=True)
class Customisations:
    """The templates and render defaults of each scope."""

    shared: Customisation
    """For every scope without custom settings."""
    own: Mapping[Scope, Customisation]

    def of(self, scope: Scope) -> Customisation:
        """The customisation of this scope."""
        return self.own.get(scope, self.shared)

    @property
    def by_name(self) -> Mapping[str, Customisation]:
        """The customisations by scope; `*` is every other scope."""
        return {"*": self.shared} | {str(scope): own for scope, own in self.own.items()}

    @property
    def replaced(self) -> Mapping[str, Sequence[str]]:
        """The names of custom templates by scope; scopes without any are left out."""
        overridden = {
            name: customisation.templates.overridden for name, customisation in self.by_name.items()
        }
        return {name: sorted(names) for name, names in overridden.items() if names}


def for_scope(settings: Settings, scope: Scope) -> Customisation:
    """The customisation of one scope; faults of other scopes are ignored.

    Raises:
        SettingsError: has every problem of its templates.
    """
    return _read(settings, [scope] if str(scope) in settings.scopes else []).of(scope)


def for_every_scope(settings: Settings) -> Customisations:
    """The customisations of all scopes, tested on a sample.

    Raises:
        SettingsError: has every problem of all templates, or of what they make of the sample.
    """
    customisations = _read(settings, map(Scope.parse, settings.scopes))
    _run_self_test(customisations)
    return customisations


def scope_label(name: str) -> str:
    """The scope of a name in `Customisations.by_name`, in words."""
    return "every scope" if name == "*" else name


def _read(settings: Settings, scopes: Iterable[Scope]) -> Customisations:
    problems: list[SettingProblem] = []
    shared = _replaced(Templates.built_in(), settings.templates, "templates", problems)
    own = {
        scope: Customisation(
            settings.render_for(scope),
            _replaced(
                shared, settings.scopes[str(scope)].templates, f"scopes.{scope}.templates", problems
            ),
        )
        for scope in scopes
    }
    if problems:
        raise SettingsError(*problems)
    return Customisations(Customisation(settings.render, shared), own)


def _run_self_test(customisations: Customisations) -> None:
    faults: dict[str, tuple[str, str]] = {}
    for name, customisation in customisations.by_name.items():
        if customisation == Customisation():
            continue  # the built-in templates are tested before a release
        try:
            self_test.run(customisation)
        except Exception as error:  # noqa: BLE001  # a template may raise anything
            message = (
                str(error) if isinstance(error, RenderError) else f"{type(error).__name__}: {error}"
            )
            # A TemplateFault names its file already.
            hint = "" if isinstance(error, TemplateFault) else _custom_templates_hint(customisation)
            # Shared templates fail for every scope with the same message, which is reported once.
            faults.setdefault(message, (name, hint))
    if faults:
        raise SettingsError(
            *(
                SettingProblem("", f"template self-test for {scope_label(name)}", message + hint)
                for message, (name, hint) in faults.items()
            )
        )


def _custom_templates_hint(customisation: Customisation) -> str:
    """The templates that may cause a fault: its line is one of the rendered files."""
    names = sorted(customisation.templates.overridden)
    return f" (custom templates: {', '.join(names)})" if names else ""


def _replaced(
    templates: Templates, directory: Path | None, setting: str, problems: list[SettingProblem]
) -> Templates:
    if directory is None:
        return templates
    try:
        files = sorted(file for file in directory.iterdir() if not file.name.startswith("."))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "unusable path"
        problems.append(
            SettingProblem(
                setting, str(directory.absolute()), f"cannot be read as a directory ({reason})"
            )
        )
        return templates
    for file in files:
        try:
            templates = templates.overridden_by({file.name: _text(file)})
        except TemplateFault as fault:
            problems.append(SettingProblem(setting, f"{file}:{fault.line}", fault.message))
    return templates


def _text(file: Path) -> str:
    """Raises TemplateFault: the file cannot be a template."""
    try:
        if not file.is_file():
            raise TemplateFault(
                file.name, 1, "is not a file: a directory of templates has no subdirectories"
            )
        with file.open("rb") as opened:
            body = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TemplateFault(file.name, 1, f"cannot be read ({error.strerror})") from error
    if len(body) > _MAX_BYTES:
        raise TemplateFault(file.name, 1, f"has more than {_MAX_BYTES} bytes")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise TemplateFault(
            file.name, body.count(b"\n", 0, error.start) + 1, "is not UTF-8"
        ) from error
    for character, words in _FORBIDDEN.items():
        if character in text:
            raise TemplateFault(file.name, text.count("\n", 0, text.index(character)) + 1, words)
    return text
