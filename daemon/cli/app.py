"""The table of commands, and the error boundary that turns every exception into an exit code.

Help needs only the table: the module of a command is imported when the command is called.
"""

import difflib
import gc
import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final, Literal

from cyclopts import App, CycloptsError, Group, MissingArgumentError, UnknownCommandError

from daemon import __version__, exit_codes
from daemon.cli import suggestions
from daemon.inspection.escaping import plain

_DAEMON: Final = Group("Run the daemon and send events", sort_key=1)
_INSPECT: Final = Group("Inspect", sort_key=2)
_CHANGE: Final = Group("Change what is live", sort_key=3)
_MAINTAIN: Final = Group("Maintain", sort_key=4)

_COMMANDS: Final = (
    (_DAEMON, "run", "run:run", "Run the daemon in the foreground."),
    (_DAEMON, "send", "send:send", "Send events from files to the daemon."),
    (_DAEMON, "render", "render:render", "Render a composition into a directory, offline."),
    (
        _INSPECT,
        "status",
        "status:status",
        "Show the status of the bucket, of one scope or of an event.",
    ),
    (_INSPECT, "scopes", "scopes:scopes", "List the scopes in the bucket."),
    (
        _INSPECT,
        "states",
        "states:states",
        "List a scope's retained states and why each is not live.",
    ),
    (_INSPECT, "show", "show:show", "Show a state: its models, events, files and digests."),
    (
        _INSPECT,
        "diff",
        "diff:diff",
        (
            "Compare two states of a scope, by default live and desired. File contents are escaped "
            "on a terminal only."
        ),
    ),
    (
        _INSPECT,
        "history",
        "history:history",
        "List every change of a scope: when, by whom and why.",
    ),
    (
        _INSPECT,
        "verify",
        "verify:verify",
        "Verify stored objects against pointers, manifests and digests.",
    ),
    (_CHANGE, "rollback", "rollback:rollback", "Make an earlier state live and hold it."),
    (_CHANGE, "hold", "hold:hold", "Keep the live state; newer states wait."),
    (_CHANGE, "resume", "hold:resume", "Make the desired state live and follow it again."),
    (
        _CHANGE,
        "quarantine",
        "quarantine:quarantine",
        "Reject the composition of a state, or accept it again.",
    ),
    (_CHANGE, "pin", "pin:pin", "Protect a state from retention, or remove the protection."),
    (
        _CHANGE,
        "republish",
        "republish:republish",
        "Render the desired state again with this release and the current settings.",
    ),
    (_CHANGE, "retire", "retire:retire", "Stop serving a scope; nothing is deleted."),
    (_MAINTAIN, "gc", "gc:gc", "Delete expired publications and unreferenced uploads."),
    (
        _MAINTAIN,
        "recover",
        "recover:recover",
        "Rebuild a lost, damaged or outdated pointer from the bucket's contents.",
    ),
    (_MAINTAIN, "keys", "keys:keys", "Manage signing keys and the trust policy."),
    (_MAINTAIN, "example", "example:example", "Restore files in example/ to their defaults."),
    (
        _MAINTAIN,
        "dead-letters",
        "dead_letters:dead_letters",
        "Manage events that could not be processed.",
    ),
    (_MAINTAIN, "config", "config:config", "Check, show or describe settings and templates."),
    (
        _MAINTAIN,
        "doctor",
        "doctor:doctor",
        "Check whether a bucket supports what publishing requires.",
    ),
    (
        _MAINTAIN,
        "healthcheck",
        "healthcheck:healthcheck",
        "Check that the daemon is alive; for container health checks.",
    ),
)

_OBJECTS_BEFORE_COLLECTION: Final = 50_000
"""New objects after which the garbage collector of a command runs; the default of Python is 700."""

_OUTPUT: Final = re.compile(r"(?:--output(?:=|$)|-[a-z]*o=?)(json|yaml)?")

_EPILOGUE: Final = (
    "Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in exit_codes.MEANINGS.items())
    + "."
)


def build() -> App:
    """Build the application. Each call returns a new one, because cyclopts keeps state in it."""
    app = App(
        name="rebundle",
        help=(
            "Publish docker-compose deployment bundles from model-registry events, and roll them "
            "back by state id."
        ),
        help_epilogue=_EPILOGUE,
        version=__version__,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for group, name, target, summary in _COMMANDS:
        app.command(f"daemon.cli.commands.{target}", name=name, help=summary, group=group)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name and return its exit code.

    Never raises. A stack trace is printed only with --debug.
    """
    complete = partial(
        suggestions.with_place, flags=suggestions.given(arguments), accepts=_place_flags_of
    )
    with suggestions.completing(complete):
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        result = build()(list(arguments))
    except BrokenPipeError:
        # The reader of standard output has closed it, as `head` does. Point the descriptor at
        # /dev/null, so that the flush at exit does not fail as well.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.DONE
    except (KeyboardInterrupt, SystemExit) as error:
        return _stopped(error)
    except BaseException as error:  # noqa: BLE001  # every error becomes a message and an exit code
        return _failed(error, arguments)
    return result if isinstance(result, int) else exit_codes.DONE


def _place_flags_of(words: Sequence[str]) -> Collection[str]:
    """The flags that a command accepts; imports its module."""
    # The second word may be a scope, and a message may name many of them.
    return _flags_of(tuple(word for word in words[:2] if "/" not in word))


@lru_cache(maxsize=128)
def _flags_of(words: tuple[str, ...]) -> frozenset[str]:
    chain, apps, _ = build().parse_commands(list(words))
    try:
        arguments = apps[-1].assemble_argument_collection() if chain else ()
    except ValueError:
        return frozenset()  # a group of commands, such as `keys`
    return frozenset(name for argument in arguments for name in argument.names)


def run_and_finish() -> None:
    """Call `run`, then end the process without waiting for threads."""
    # Pydantic would read the metadata of every installed package, to look for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if sys.argv[1:2] != ["run"]:
        # Imports make many objects and hardly any garbage.
        gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    from daemon.lifecycle import finish  # noqa: PLC0415  # help does not need it

    finish(run(sys.argv[1:]))


def _stopped(error: KeyboardInterrupt | SystemExit) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else exit_codes.FAILED
    sys.stderr.write("rebundle: interrupted\n")
    return exit_codes.INTERRUPTED


def _failed(error: BaseException, arguments: Sequence[str]) -> int:
    # Imports the errors of every package, which help does not need.
    from daemon.cli import failures  # noqa: PLC0415

    debug = "--debug" in arguments
    if debug:
        traceback.print_exception(error)
    expected = failures.known(error)
    if expected is None:
        message = f"unexpected {type(error).__name__}: {error}"
        hint = "" if debug else " (--debug shows a stack trace; please report this)"
        sys.stderr.write(f"rebundle: {plain(message)}{hint}\n")
        code = exit_codes.FAILED
    else:
        message = suggestions.current()(_message(expected))
        code = failures.exit_code(error)
        for number, line in enumerate(message.splitlines()):
            sys.stderr.write(f"{'rebundle: ' if number == 0 else '  '}{plain(line)}\n")
    if (encoding := _encoding(arguments)) is not None:
        from daemon.cli import output  # noqa: PLC0415  # as above

        with suppress(BrokenPipeError):
            sys.stdout.write(output.encoded(output.error_document(message, code), encoding))
    return code


def _encoding(arguments: Sequence[str]) -> Literal["json", "yaml"] | None:
    """The format that `--output` requests. Works on arguments that cyclopts has rejected, too."""
    if "render" in arguments[:1]:
        return None  # its -o names a folder
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if (option := _OUTPUT.fullmatch(argument)) is not None:
            match option[1] or following:
                case ("json" | "yaml") as encoding:
                    return encoding
    return None


def _message(error: BaseException) -> str:
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error)
    message = str(error).strip() or type(error).__name__
    if isinstance(error, CycloptsError):
        if (
            isinstance(error, MissingArgumentError)
            and error.argument is not None
            and not error.keyword
        ):
            message = f"{error.argument.name} is missing"
        usage = " ".join(("rebundle", *(error.command_chain or ()), "--help"))
        return f"{message}\nsee `{usage}` for usage"
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        return f"{len(problems)} problems:\n" + "\n".join(map(str, problems))
    return message


def _unknown_command(error: UnknownCommandError) -> str:
    """Replaces cyclopts' message, which would import every command to find the nearest one."""
    name = next(iter(error.unused_tokens or ()), "")
    near = difflib.get_close_matches(name, [command for _, command, _, _ in _COMMANDS], n=1)
    hint = f"did you mean `rebundle {near[0]}`?" if near else "`rebundle --help` lists the commands"
    return f"unknown command {name!r}: {hint}"
