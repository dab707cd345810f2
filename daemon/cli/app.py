"""The verbs, and the one error boundary of the command line.

The table of verbs is all that help needs: a verb's module is imported when the verb is called.
"""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from cyclopts import App, CycloptsError, Group, MissingArgumentError, UnknownCommandError

from daemon import __version__
from daemon.cli import codes
from daemon.inspection.escaping import plain

_RUNNING: Final = Group("Run and feed", sort_key=1)
_LOOKING: Final = Group("Look", sort_key=2)
_ACTING: Final = Group("Change what is live", sort_key=3)
_TENDING: Final = Group("Tend", sort_key=4)

_VERBS: Final = (
    (_RUNNING, "run", "run:run", "Run the daemon in the foreground."),
    (_RUNNING, "send", "send:send", "Send events of files to the daemon."),
    (_RUNNING, "render", "render:render", "Render a composition into a folder, offline."),
    (_LOOKING, "status", "status:status", "Overview of the bucket, one scope of it, or what became of an event."),
    (_LOOKING, "scopes", "scopes:scopes", "List the scopes of the bucket."),
    (_LOOKING, "states", "states:states", "List a scope's retained states, and why each is not live."),
    (_LOOKING, "show", "show:show", "Show a state: models, events, files, digests."),
    (
        _LOOKING,
        "diff",
        "diff:diff",
        "Compare two states of a scope; without names live and desired. Contents are escaped on a terminal only.",
    ),
    (_LOOKING, "history", "history:history", "List every change of a scope: when, by whom, why."),
    (_LOOKING, "verify", "verify:verify", "Check what is stored against pointers, manifests and digests."),
    (_ACTING, "rollback", "rollback:rollback", "Make an earlier state live, and hold it there."),
    (_ACTING, "hold", "hold:hold", "Keep what is live; newer states wait."),
    (_ACTING, "resume", "hold:resume", "Make desired live, and follow it again."),
    (_ACTING, "quarantine", "quarantine:quarantine", "Reject a state's composition, or lift that."),
    (_ACTING, "pin", "pin:pin", "Keep a state from retention, or stop keeping it."),
    (_ACTING, "republish", "republish:republish", "Render desired again with this release and today's settings."),
    (_ACTING, "retire", "retire:retire", "Stop serving a scope; nothing is deleted."),
    (_TENDING, "gc", "gc:gc", "Delete what retention no longer keeps, and what nothing names."),
    (_TENDING, "recover", "recover:recover", "Rebuild a lost, damaged or restored pointer from what the bucket has."),
    (_TENDING, "keys", "keys:keys", "Signing keys, and whose signatures count here."),
    (_TENDING, "example", "example:example", "Operators' files of example/."),
    (_TENDING, "dead-letters", "dead_letters:dead_letters", "Events that could not be folded."),
    (_TENDING, "config", "config:config", "Check, show or describe the settings and templates."),
    (_TENDING, "doctor", "doctor:doctor", "Probe a bucket: whether it honours what publishing rests on."),
    (_TENDING, "healthcheck", "healthcheck:healthcheck", "Ask the daemon whether it lives; for containers."),
)

_OUTPUT: Final = re.compile(r"(?:--output(?:=|$)|-[a-z]*o=?)(json|yaml)?")

_EPILOGUE: Final = "Exit codes: " + "; ".join(f"{code} {words}" for code, words in codes.MEANINGS.items()) + "."


def build() -> App:
    """The application. A new one each time: cyclopts keeps state in it."""
    app = App(
        name="rebundle",
        help="Turns model-registry events into published docker-compose deployment bundles that roll back by id.",
        help_epilogue=_EPILOGUE,
        version=__version__,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for group, name, where, words in _VERBS:
        app.command(f"daemon.cli.commands.{where}", name=name, help=words, group=group)
    return app


def run(arguments: Sequence[str]) -> int:
    """Does what the arguments say; the exit code. Never raises, and shows a trace only with --debug."""
    try:
        result = build()(list(arguments))
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be said to it.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.DONE
    except (KeyboardInterrupt, SystemExit) as error:
        return _stopped(error)
    except BaseException as error:  # noqa: BLE001  # the one boundary: everything becomes words and a code
        return _failed(error, arguments)
    return result if isinstance(result, int) else codes.DONE


def run_and_finish() -> None:
    """The console script: `run`, then the end of the process without waiting for threads."""
    from daemon.lifecycle import finish  # noqa: PLC0415  # help needs none of it

    finish(run(sys.argv[1:]))


def _stopped(error: KeyboardInterrupt | SystemExit) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else codes.FAILED
    sys.stderr.write("rebundle: interrupted\n")
    return codes.INTERRUPTED


def _failed(error: BaseException, arguments: Sequence[str]) -> int:
    from daemon.cli import failures  # noqa: PLC0415  # knows the errors of every package, which help needs not

    debug = "--debug" in arguments
    if debug:
        traceback.print_exception(error)
    told = failures.known(error)
    if told is None:
        words = f"unexpected {type(error).__name__}: {error}"
        hint = "" if debug else " (--debug shows where; please report it)"
        sys.stderr.write(f"rebundle: {plain(words)}{hint}\n")
        code = codes.FAILED
    else:
        words, code = _words(told), failures.exit_code(error)
        for number, line in enumerate(words.splitlines()):
            sys.stderr.write(f"{'rebundle: ' if number == 0 else '  '}{plain(line)}\n")
    if (encoding := _encoding(arguments)) is not None:
        from daemon.cli import output  # noqa: PLC0415  # as above

        with suppress(BrokenPipeError):
            sys.stdout.write(output.encoded(output.error_document(words, code), encoding))
    return code


def _encoding(arguments: Sequence[str]) -> Literal["json", "yaml"] | None:
    """Which document `--output` asks for, also where the other arguments make no sense."""
    if "render" in arguments[:1]:
        return None  # its -o names a folder
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if (found := _OUTPUT.fullmatch(argument)) is not None:
            match found[1] or following:
                case ("json" | "yaml") as encoding:
                    return encoding
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, UnknownCommandError):
        return _unknown_verb(error)
    words = str(error).strip() or type(error).__name__
    if isinstance(error, CycloptsError):
        if isinstance(error, MissingArgumentError) and error.argument is not None and not error.keyword:
            words = f"{error.argument.name} is missing"
        verb = " ".join(error.command_chain or ())
        return f"{words}\n`rebundle {f'{verb} ' if verb else ''}--help` shows how to use it"
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        return f"{len(problems)} problems:\n" + "\n".join(map(str, problems))
    return words


def _unknown_verb(error: UnknownCommandError) -> str:
    """Not cyclopts' own words: these would import every verb to find the nearest."""
    given = next(iter(error.unused_tokens or ()), "")
    near = difflib.get_close_matches(given, [name for _, name, _, _ in _VERBS], n=1)
    hint = f"did you mean `rebundle {near[0]}`?" if near else "`rebundle --help` lists what there is"
    return f"there is no verb {given!r}: {hint}"
