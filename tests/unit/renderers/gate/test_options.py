"""Options of a service: their groups, and what the gate refuses about them."""

from textwrap import dedent, indent

import pytest

from renderers import gate
from renderers.bundle import Renderer
from renderers.composition import RenderDefaults
from renderers.errors import GateFailure
from renderers.gate import options
from renderers.gate.options import Fault
from renderers.template_set import Templates
from tests.builders import STAMP, make_composition


def service(text: str) -> str:
    return "  s1s:\n" + indent(dedent(text), "    ") + "\n"


def lines_of_groups(text: str) -> list[list[str]]:
    lines = service(text).split("\n")
    return [
        [lines[number - 1].strip() for number in group.lines]
        for group in options.groups(service(text))
    ]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("image: x\n# a remark\n#\n", []),
        ("command:\n  - a\n  #- --x=1\n  #- --y=1\n", [["#- --x=1"], ["#- --y=1"]]),
        ("command:\n  - a\n  #- --x\n  #- <value>\n", [["#- --x", "#- <value>"]]),
        ("command:\n  - a\n  #- -x\n  #- 1\n  #- 2\n", [["#- -x", "#- 1"], ["#- 2"]]),
        ("command:\n  - a\n  #- --x\n  #- --y\n", [["#- --x"], ["#- --y"]]),
        ("command:\n  - a\n  #- --x=1\n  #- y\n", [["#- --x=1"], ["#- y"]]),
        ('command:\n  - a\n  #- "--x"\n  #- "on"\n', [['#- "--x"', '#- "on"']]),
        ("entrypoint:\n  - a\n  #- --x\n  #- y\n", [["#- --x", "#- y"]]),
        ("command:\n  - a\n  #- --x\n\n  #- y\n", [["#- --x"], ["#- y"]]),
        ("command:\n  - a\n  #- --x\n  - --z=1\n  #- y\n", [["#- --x"], ["#- y"]]),
        ("command:\n  - a\n  #- --x\n  # remark\n  #- y\n", [["#- --x", "#- y"]]),
        ("dns:\n  - a\n  #- --x\n  #- y\n", [["#- --x"], ["#- y"]]),
        (
            "deploy:\n  x: 1\n  #devices:\n    #- capabilities: [gpu]\n      #count: 1\n  #y: 2\n",
            [["#devices:", "#- capabilities: [gpu]", "#count: 1"], ["#y: 2"]],
        ),
        (
            "image: x\n#logging:\n  #driver: a\n\n  #options: {}\n",
            [["#logging:", "#driver: a"], ["#options: {}"]],
        ),
        ("volumes:\n    #- a:/b\n  #- c:/d\n", [["#- a:/b"], ["#- c:/d"]]),
        ("x: |\n  #!/bin/sh\n  #y\n#z: 1\n", [["#z: 1"]]),
        ('x: "a\n  #b\n  c"\n#z: 1\n', [["#z: 1"]]),
        ("x:\n  - >-\n    a\n    #b\n\n  #- c\n", [["#- c"]]),
    ],
)
def test_options_are_grouped_by_depth_and_by_flag_and_value(text, groups):
    assert lines_of_groups(text) == groups


def test_a_group_is_enabled_by_deleting_the_sign_of_its_lines():
    text = service("a: 1\n#b:\n  #- '#c'\n#d: 2\n")
    first, second = options.groups(text)

    assert options.enabled(text, [first]) == service("a: 1\nb:\n  - '#c'\n#d: 2\n")
    assert options.enabled(text, [first, second]) == service("a: 1\nb:\n  - '#c'\nd: 2\n")


USABLE = {
    "no comment": "image: x\n",
    "a remark that is no YAML": "image: x\n# image: [\n",
    "a flag": "command:\n  - a\n  - --x=1\n  #- --y=1\n",
    "a flag and its value": "command:\n  - a\n  #- --y\n  #- <value>\n",
    "a flag that is there several times without it": (
        "command:\n  - --load=a\n  - --load=b\n  #- --y=1\n"
    ),
    "a flag before a flag": "command:\n  - a\n  #- --y\n  - --x\n  - 1\n",
    "the only entries of a list": "command:\n  - a\nvolumes:\n  #- a:/b\n  #- c:/d\n",
    "a mount in the long form": "volumes:\n  - a:/b\n  #- type: bind\n    #target: /c\n",
    "a part of an entry": "ports:\n  - target: 1\n    #published: 2\n",
    "a variable": "environment:\n  A: b\n  #C: d\n",
    "a variable in a list": "environment:\n  - A=b\n  #- C=d\n",
    "a key with keys below it": "image: x\n#logging:\n  #driver: a\n",
    "below values of another kind": (
        "volumes: {a: 1}\ncommand: a\nenvironment: 3\nlabels:\ntmpfs: 7\n#x: 1\n"
    ),
    "two mounts of one source": "volumes:\n  - a:/b\n  #- a:/c\n",
}


@pytest.mark.parametrize("text", USABLE.values(), ids=USABLE)
def test_options_that_only_add_are_usable(text):
    assert options.fault(service(text), []) is None


ALONE = "an option that can be enabled alone in "
UNUSABLE = {
    "text": ("image: x\n#for python\n", 3, "'#for python'", "instead of YAML"),
    "another comment": ("image: x\n##x: 1\n", 3, "'##x: 1'", "nothing that it sets"),
    "an open bracket": ("image: x\n#x: [\n", 3, "'#x: ['", "instead of YAML"),
    "a key twice": ("image: x\n#image: y\n", 3, "'#image: y'", "'image' instead of each key once"),
    "a line that goes on": ("restart: a\n  #b\n", 3, "'#b'", "restart with another value"),
    "a value for a key": ("restart: a\n  #b: c\n", 3, "'#b: c'", "instead of YAML"),
    "a flag twice": ("command:\n  - --x=1\n  #- --x=2\n", 4, "'#- --x=2'", "flag 'x' twice"),
    "a flag twice with its value": (
        *("command:\n  - --x\n  - 1\n  #- -x\n  #- 2\n", 5, "'#- -x'"),
        "flag 'x' twice",
    ),
    "a mount target twice": (
        *("volumes:\n  - a:/b\n  #- c:/b/:ro\n", 4, "'#- c:/b/:ro'"),
        "mount at '/b' twice",
    ),
    "a mount target twice in the long form": (
        *("volumes:\n  - a:/b\n  #- type: tmpfs\n    #target: /b\n", 4, "'#- type: tmpfs'"),
        "mount at '/b' twice",
    ),
    "a file system in memory at a mount": (
        *("volumes:\n  - a:/b\n#tmpfs: /b\n", 4, "'#tmpfs: /b'"),
        "mount at '/b' twice",
    ),
    "an anonymous volume at a mount": (
        *("volumes:\n  - a:/b\n  #- /b\n", 4, "'#- /b'"),
        "mount at '/b' twice",
    ),
    "a variable twice": (
        *("environment:\n  - A=1\n  #- A=2\n", 4, "'#- A=2'"),
        "key 'environment.A' twice",
    ),
    "a variable twice in a mapping": (
        *("environment:\n  A: 1\n  #A: 2\n", 4, "'#A: 2'"),
        "'A' instead of each key once",
    ),
    "a flag before a word": (
        *("command:\n  - a\n  #- --x\n  - b\n", 4, "'#- --x'"),
        "'b' no longer as it is without it: a flag takes its value",
    ),
    "a flag between another and its value": (
        *("command:\n  - -c\n  #- --x=1\n  - /y\n", 4, "'#- --x=1'"),
        "'-c /y' no longer as it is without it: a flag takes its value",
    ),
    "a value behind a flag that is on": (
        *("command:\n  - --x\n  #- y\n", 4, "'#- y'"),
        "'--x' no longer as it is without it: a flag takes its value",
    ),
    "a flag that needs a value": (
        *("command:\n  - a\n  #- --known\n  #- --y\n", 4, "'#- --known'"),
        "'--known' without its value: it takes the next word",
    ),
    "a service": ("image: x\n  #- a\n", 3, "'#- a'", "image with another value than without it"),
}


@pytest.mark.parametrize(("text", "line", "what", "found"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_option_that_is_not_usable_alone_is_named_with_its_line(text, line, what, found):
    fault = options.fault(service(text), ["#- --known", "#- <value>"])

    assert fault is not None
    assert (fault.line, fault.what) == (line, f"{ALONE}{what} (a remark has a blank behind its #)")
    assert found in fault.found


def test_an_option_of_another_service_is_refused():
    fault = options.fault("  s1s:\n    image: x\n  #s2s: {}\n", [])

    assert fault is not None
    assert fault.found == "another service or a key outside of it"


TOGETHER = {
    "a flag": (
        "command:\n  - a\n  #- --y=1\n  #- --z=1\n  #- --y=2\n  #- --q\n",
        6,
        "flag 'y' twice",
    ),
    "a mount": ("volumes:\n  #- a:/x\n\n  #- b:/x\n", 5, "mount at '/x' twice"),
    "a key": ("image: x\n#a: 1\n#b: 1\n#a: 2\n", 5, "'a' instead of each key once, and a string"),
    "a value of another option": (
        *("command:\n  - a\n  #- --y\n\n  #- b\n", 6),
        "'--y' with another value behind it",
    ),
}


@pytest.mark.parametrize(("text", "line", "found"), TOGETHER.values(), ids=TOGETHER)
def test_options_that_exclude_one_another_are_refused_at_the_second(text, line, found):
    option = service(text).split("\n")[line - 1].strip()

    assert options.fault(service(text), []) == Fault(
        line, f"an option that can be enabled together with those above in {option!r}", found
    )


@pytest.mark.parametrize(
    ("expected", "is_refused"),
    [
        (["#- --x=<int_val>"], True),
        (["#- --x", "#- <value>"], True),
        (["#- --x", "#- --y"], False),
        (["#devices:", "#- capabilities: [gpu]", "#count: 1"], False),
    ],
)
def test_a_flag_needs_a_value_where_the_built_in_option_has_one(expected, is_refused):
    text = service("command:\n  - a\n  #- --x\n")

    assert bool(options.fault(text, expected)) is is_refused


def test_a_service_of_the_same_kind_is_not_parsed_again(monkeypatch):
    def one(model_id, image, flag, device):
        return service(
            f'image: {image}\nlabels:\n  a: "{image}"\nvolumes:\n  - ../{model_id}:/m/{model_id}\n'
            f"  #- ./{model_id}.txt:/etc/x\ncommand:\n  - a\n  - --level={flag}\n  #- --y=1\n"
            f'deploy:\n  ids:\n    - "{device}"\n'
        )

    assert options.fault(one("one", "x:1", "2", "0"), [], model_id="one") is None
    monkeypatch.setattr(options, "_first_fault", lambda *_: pytest.fail("parsed"))

    assert options.fault(one("other", "y:2", "9", "GPU-1"), [], model_id="other") is None


@pytest.mark.parametrize(
    ("passes", "fails"),
    [
        ("command:\n  - --x=1\n  #- --y=1\n", "command:\n  - --y=1\n  #- --y=1\n"),
        ("volumes:\n  - a:/x\n  #- b:/y\n", "volumes:\n  - a:/y\n  #- b:/y\n"),
        (
            "volumes:\n  - type: bind\n    target: /x\n  #- b:/y\n",
            "volumes:\n  - type: bind\n    target: /y\n  #- b:/y\n",
        ),
        ("a: 1\n#b: 1\n", "b: 1\n#b: 1\n"),
        ("environment:\n  - A=1\n  #- B=1\n", "environment:\n  - B=1\n  #- B=1\n"),
        ("command:\n  - --x\n  - 1\n  #- --y\n", "command:\n  - x\n  #- --y\n  - 1\n"),
        ("tmpfs: [/x]\nvolumes:\n  #- b:/y\n", "tmpfs: [/y]\nvolumes:\n  #- b:/y\n"),
    ],
)
def test_a_service_that_passed_says_nothing_about_a_different_one(passes, fails):
    assert options.fault(service(passes), []) is None
    assert options.fault(service(fails), []) is not None


def test_an_option_may_be_known_to_need_a_value_in_one_service_only():
    text = service("command:\n  - b\n  #- --x\n")

    assert options.fault(text, []) is None
    assert options.fault(text, ["#- --x=1"]) is not None


BUNDLE = make_composition(8)
DEFAULTS = RenderDefaults()
BUILT_IN = Templates.built_in()


def check(name, old, new):
    text = BUILT_IN.text(name)
    assert old in text
    templates = BUILT_IN.overridden_by({name: text.replace(old, new, 1)})
    files = Renderer().render(BUNDLE, DEFAULTS, STAMP, templates)
    gate.check(BUNDLE, DEFAULTS, files, templates.overridden)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("triton.yaml", "    shm_size", "    # batching: in config.pbtxt\n    shm_size"),
        (
            "tensorflow.yaml",
            "      #- ./mon",
            "      # for batching and monitoring\n      #- ./mon",
        ),
        ("proxy.yaml", "      - -c\n", "      # --inference [\n      - -c\n"),
        ("triton.yaml", "    command:\n", "      #- ./<model_id>:/etc/x\n    command:\n"),
        ("router.yaml", "    networks:\n", "    #logging:\n      #driver: local\n    networks:\n"),
        ("model_download.yaml", "    volumes:\n", "      #RCLONE_BWLIMIT: 1M\n    volumes:\n"),
    ],
)
def test_remarks_and_other_options_are_free_in_custom_templates(name, old, new):
    check(name, old, new)


def test_an_option_that_a_custom_template_drops_may_not_be_shown_by_the_readme():
    with pytest.raises(GateFailure) as failure:
        check("tensorflow.yaml", "      #- --grpc_max_threads=<int_val>\n", "")

    assert failure.value.file == "README.md"


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("triton.yaml", "    shm_size", "    #because of python\n    shm_size", "python"),
        (
            "tensorflow.yaml",
            "    command:\n",
            "      #- ./x:/etc/batching.txt\n    command:\n",
            "./x",
        ),
        ("proxy.yaml", "      - -c\n", "      - -c\n      #- --debug=1\n", "--debug"),
        ("proxy.yaml", "      #- <inference_svc_name_format>\n", "", "name-format"),
        ("router.yaml", "    networks:\n", "    #labels: {}\n    networks:\n", "labels"),
        ("model_download.yaml", "    volumes:\n", "      #RCLONE_CONFIG: /x\n    volumes:\n", "/x"),
        ("resources.yaml", "{% if gpu", "          #memory: 4g\n{% if gpu", "4g"),
    ],
)
def test_an_option_of_a_custom_template_that_cannot_be_enabled_is_refused(name, old, new, line):
    with pytest.raises(GateFailure) as failure:
        check(name, old, new)

    text = BUILT_IN.text(name).replace(old, new, 1)
    templates = BUILT_IN.overridden_by({name: text})
    files = Renderer().render(BUNDLE, DEFAULTS, STAMP, templates)
    body = next(file.body for file in files if file.path == failure.value.file)
    assert line in body.decode().splitlines()[failure.value.line - 1]
    assert "an option that can be enabled" in failure.value.what
