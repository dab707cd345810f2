"""The set of templates: filters for each sink, overrides, and errors with template and line."""

import pytest

from renderers import template_set
from renderers.bundle import Renderer
from renderers.composition import RenderDefaults, Stamp
from renderers.errors import TemplateFault, UnsafeText
from renderers.template_set import Templates
from tests.builders import golden_composition

BUILT_IN = Templates.built_in()


@pytest.mark.parametrize("word", ["default", "include", "hostnames", "volatile"])
def test_a_keyword_of_nginx_gets_a_backslash(word):
    assert template_set.nginx_key(word) == f"\\{word}"


def test_an_id_is_unchanged_in_the_map():
    assert template_set.nginx_key("a-b_1") == "a-b_1"


@pytest.mark.parametrize(
    ("escape", "sink"),
    [
        (template_set.nginx_key, "an nginx map"),
        (template_set.env_name, "a variable's name"),
        (template_set.env_value, "an env file"),
        (template_set.shell_word, "a field of a shell's read"),
        (template_set.protobuf_string, "a string of protobuf"),
        (template_set.markdown, "Markdown"),
    ],
)
@pytest.mark.parametrize(
    "text", ["a;", "a\nb", "$(id)", "`id`", "a b\t", "{", "~\n", 'a"', "é", "<b>"]
)
def test_text_that_a_sink_cannot_represent_is_refused_with_the_text(escape, sink, text):
    with pytest.raises(UnsafeText) as refused:
        escape(text)

    assert (refused.value.text, refused.value.sink) == (text, sink)


def test_an_underscore_is_no_emphasis_in_markdown():
    assert template_set.markdown("a_b") == "a\\_b"


def test_a_missing_value_is_an_error_and_not_a_blank():
    with pytest.raises(TemplateFault, match=r"models.map:1: 'port' is undefined"):
        BUILT_IN.render("models.map", id="1")


def test_a_template_that_does_not_exist_is_an_error():
    with pytest.raises(TemplateFault, match=r"^template \.\./model\.py:1: \.\./model\.py$"):
        BUILT_IN.render("../model.py")


def test_no_template_has_carriage_returns_tabs_or_blanks_at_the_end_of_a_line():
    for name, source in BUILT_IN._sources.items():
        for number, line in enumerate(source.split("\n"), 1):
            assert line == line.rstrip().replace("\t", " "), f"{name}:{number}"


def test_an_override_replaces_the_template_of_its_name_and_no_other():
    own = BUILT_IN.overridden_by({"models.map": "{{ id | nginx_key }} elsewhere:{{ port }};\n"})

    assert own.render("models.map", id="a", port=1) == "a elsewhere:1;\n"
    assert own.text("nginx.conf") == BUILT_IN.text("nginx.conf")
    assert own.overridden == {"models.map"}


def test_the_later_of_two_overrides_wins():
    own = BUILT_IN.overridden_by({"monitoring.txt": "one\n", "gcs.json": "one\n"}).overridden_by(
        {"monitoring.txt": "two\n"}
    )

    assert (own.text("monitoring.txt"), own.text("gcs.json")) == ("two\n", "one\n")
    assert own.overridden == {"monitoring.txt", "gcs.json"}


def test_an_override_with_the_same_text_does_not_count():
    same = BUILT_IN.overridden_by({"gcs.json": BUILT_IN.text("gcs.json")})

    assert same == BUILT_IN
    assert not same.overridden


def test_only_equal_texts_have_equal_digests():
    own = BUILT_IN.overridden_by({"gcs.json": "{}"})

    assert own.digest != BUILT_IN.digest
    assert own != BUILT_IN
    assert BUILT_IN.digest != BUILT_IN
    assert own.digest == BUILT_IN.overridden_by({"gcs.json": "{}"}).digest
    assert len({own, BUILT_IN, BUILT_IN.overridden_by({"gcs.json": "{}"})}) == 2


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {"modles.map": ""},
            r"modles\.map:1: is not the name of a template; did you mean models\.map\?",
        ),
        ({"/etc/passwd": ""}, r"is not the name of a template"),
        ({"q": ""}, r"there are README\.md, "),
        ({"models.map": "\n{% if %}"}, r"models\.map:2: Expected an expression"),
        ({"models.map": "{{ id | shell }}"}, r"models\.map:1: No filter named 'shell'"),
        (
            {"models.map": "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}"},
            r"models\.map:1: cannot be compiled: RecursionError: ",
        ),
    ],
    ids=["nearly a name", "a path", "no name", "no template", "no filter", "too deep"],
)
def test_an_invalid_override_is_refused_with_its_place(sources, message):
    with pytest.raises(TemplateFault, match=message):
        BUILT_IN.overridden_by(sources)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a\n{{ nothing }}", ("router.yaml", 2)),
        ("a\n\n{{ 1 / 0 }}", ("router.yaml", 3)),
        ("{{ labels.a.b }}", ("router.yaml", 1)),
        ("{{ 'a' + labels }}", ("router.yaml", 1)),
        ("\n{{ ''.__class__.__mro__ }}", ("router.yaml", 2)),
        ("\n{% include 'no.yaml' %}", ("router.yaml", 2)),
    ],
)
def test_an_override_that_fails_names_its_line(text, place):
    own = BUILT_IN.overridden_by({"router.yaml": text})

    with pytest.raises(TemplateFault) as failed:
        own.render("router.yaml", labels=0)

    assert (failed.value.name, failed.value.line) == place


def test_an_error_raised_by_a_template_is_reported_with_its_kind():
    own = BUILT_IN.overridden_by({"router.yaml": "{{ 1 / 0 }}"})

    with pytest.raises(
        TemplateFault, match=r"^template router\.yaml:1: ZeroDivisionError: division by zero$"
    ):
        own.render("router.yaml")


def test_a_fault_in_an_included_template_names_that_one():
    own = BUILT_IN.overridden_by({"labels.yaml": "\n{{ nothing }}\n"})

    with pytest.raises(TemplateFault, match=r"labels\.yaml:2: 'nothing' is undefined"):
        own.render("router.yaml", labels=1)


def test_a_file_that_is_not_a_template_is_never_read_as_one():
    body = "#{{ nothing }} ${#list} {% if %}\n"
    own = BUILT_IN.overridden_by(dict.fromkeys(template_set._TEXTS, body))

    files = Renderer().render(golden_composition(), RenderDefaults(), Stamp("s", "1"), own)

    # gcs.json is shown in the README as well.
    assert sum(file.body.count(body.encode()) for file in files) == len(template_set._TEXTS) + 1


@pytest.mark.parametrize(
    "text",
    [
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].environ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ labels.__class__ }}",
        "{{ self.__init__ }}",
        "{{ '{0.__class__}'.format(labels) }}",
        "{{ 'x' | attr('__class__') }}",
        "{{ environ }}",
        "{{ os }}",
        "{{ range(10 ** 9) | length }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_no_template_can_access_the_environment_or_python(monkeypatch, text):
    monkeypatch.setenv("CANARY", "canary-in-the-environment")
    own = BUILT_IN.overridden_by({"router.yaml": text})

    try:
        rendered = own.render("router.yaml", labels=1)
    except TemplateFault:
        return
    # Jinja2 renders some forbidden expressions as nothing.
    assert "canary" not in rendered
    assert "<" not in rendered


def test_nothing_is_escaped_for_another_sink():
    own = BUILT_IN.overridden_by({"router.yaml": "{{ labels }}"})

    assert own.render("router.yaml", labels="<&>'\"") == "<&>'\""
