"""Reads what scopes put over the built-in templates, and puts it together with their render defaults.

A directory of templates holds files by the names of built-in ones, side by side; what begins with a dot is passed over
(an editor's file, or how Kubernetes mounts a ConfigMap). Anything else has to be a template: a file that nobody would
ever use has a mistake in its name. Directories are read once, when a process starts: a daemon that followed them would
publish what somebody is half way through editing.

What all of it makes of a sample is judged here, by `renderers.self_test`; what it makes of a state, by the gate, before
the state is published.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.settings import SettingProblem, Settings, SettingsError
from renderers import self_test
from renderers.bundle import Customisation
from renderers.errors import RenderError, TemplateFault
from renderers.model import Scope
from renderers.template_set import Templates

_LARGEST: Final = 256 << 10
_FORBIDDEN: Final = {
    "\r": "has a carriage return: save it with LF line ends",
    "\0": "has a NUL",
    "\ufeff": "has a byte order mark: save it without",
}


@dataclass(frozen=True, slots=True)
class Customisations:
    """What each scope brings of its own beside its composition."""

    shared: Customisation
    """Of every scope that has no settings of its own."""
    own: Mapping[Scope, Customisation]

    def of(self, scope: Scope) -> Customisation:
        """What this scope brings."""
        return self.own.get(scope, self.shared)

    @property
    def by_name(self) -> Mapping[str, Customisation]:
        """Each by its scope; `*` is every other scope."""
        return {"*": self.shared} | {str(scope): own for scope, own in self.own.items()}

    @property
    def replaced(self) -> Mapping[str, Sequence[str]]:
        """The names of the templates that are not the built-in ones, where there are some, by scope."""
        overridden = {name: each.templates.overridden for name, each in self.by_name.items()}
        return {name: sorted(names) for name, names in overridden.items() if names}


def for_scope(settings: Settings, scope: Scope) -> Customisation:
    """What one scope brings; faults in what others bring do not matter.

    Raises:
        SettingsError: with every problem of its templates.
    """
    return _read(settings, [scope] if str(scope) in settings.scopes else []).of(scope)


def for_every_scope(settings: Settings) -> Customisations:
    """What all scopes bring, rehearsed.

    Raises:
        SettingsError: with every problem of all templates, or of what they make of a sample.
    """
    brought = _read(settings, map(Scope.parse, settings.scopes))
    _rehearse(brought)
    return brought


def whom(name: str) -> str:
    """Whose a customisation of `Customisations.by_name` is, in words."""
    return "every scope" if name == "*" else name


def _read(settings: Settings, scopes: Iterable[Scope]) -> Customisations:
    problems: list[SettingProblem] = []
    shared = _replaced(Templates.built_in(), settings.templates, "templates", problems)
    own = {
        scope: Customisation(
            settings.render_for(scope),
            _replaced(shared, settings.scopes[str(scope)].templates, f"scopes.{scope}.templates", problems),
        )
        for scope in scopes
    }
    if problems:
        raise SettingsError(*problems)
    return Customisations(Customisation(settings.render, shared), own)


def _rehearse(brought: Customisations) -> None:
    faults: dict[str, tuple[str, str]] = {}
    for name, each in brought.by_name.items():
        if each == Customisation():
            continue  # what a release brings was rehearsed before it was released
        try:
            self_test.rehearse(each)
        except Exception as error:  # noqa: BLE001  # whatever a template provokes is its author's to know
            words = str(error) if isinstance(error, RenderError) else f"{type(error).__name__}: {error}"
            faults.setdefault(
                words, (name, "" if isinstance(error, TemplateFault) else _told(each))
            )  # a scope has its share of what is wrong for all
    if faults:
        found = ((f"rehearsal for {whom(name)}", words + told) for words, (name, told) in faults.items())
        raise SettingsError(*(SettingProblem("", source, message) for source, message in found))


def _told(own: Customisation) -> str:
    """Whose text a refusal may be about: its line is one of what the templates make."""
    return f" (templates of its own: {', '.join(sorted(own.templates.overridden))})" if own.templates.overridden else ""


def _replaced(templates: Templates, directory: Path | None, setting: str, problems: list[SettingProblem]) -> Templates:
    if directory is None:
        return templates
    try:
        files = sorted(file for file in directory.iterdir() if not file.name.startswith("."))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable path"
        problems.append(SettingProblem(setting, str(directory.absolute()), f"cannot be read as a directory ({reason})"))
        return templates
    for file in files:
        try:
            templates = templates.overridden_by({file.name: _text(file)})
        except TemplateFault as fault:
            problems.append(SettingProblem(setting, f"{file}:{fault.line}", fault.message))
    return templates


def _text(file: Path) -> str:
    """Raises TemplateFault: this can be no template."""
    try:
        if not file.is_file():
            raise TemplateFault(file.name, 1, "is no file: templates stand side by side in their directory")
        with file.open("rb") as opened:
            body = opened.read(_LARGEST + 1)
    except OSError as error:
        raise TemplateFault(file.name, 1, f"cannot be read ({error.strerror})") from error
    if len(body) > _LARGEST:
        raise TemplateFault(file.name, 1, f"has more than {_LARGEST} bytes")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise TemplateFault(file.name, body.count(b"\n", 0, error.start) + 1, "is not UTF-8") from error
    for character, words in _FORBIDDEN.items():
        if character in text:
            raise TemplateFault(file.name, text.count("\n", 0, text.index(character)) + 1, words)
    return text
