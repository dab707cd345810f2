import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import TemplateNotFound

from renderers import templates
from renderers.errors import UnsafeText


@pytest.mark.parametrize("word", ["default", "include", "hostnames", "volatile"])
def test_a_word_of_nginx_gets_a_backslash(word):
    assert templates.nginx_key(word) == f"\\{word}"


def test_an_id_stays_as_it_is_in_the_map():
    assert templates.nginx_key("a-b_1") == "a-b_1"


@pytest.mark.parametrize(
    "escape",
    [templates.nginx_key, templates.env_name, templates.env_value, templates.shell_word, templates.markdown],
    ids=lambda escape: escape.__name__,
)
@pytest.mark.parametrize("text", ["a;", "a\nb", "$(id)", "`id`", "a b\t", "{", "~\n", 'a"', "é", "<b>"])
def test_what_a_sink_cannot_hold_is_refused_with_the_text(escape, text):
    with pytest.raises(UnsafeText) as refused:
        escape(text)

    assert refused.value.text == text
    assert repr(text) in str(refused.value)


def test_an_underscore_is_no_emphasis_in_markdown():
    assert templates.markdown("a_b") == "a\\_b"


def test_a_value_that_is_not_given_is_an_error_not_a_blank():
    with pytest.raises(UndefinedError, match="port"):
        templates.render("models.map", id="1")


def test_a_template_that_does_not_exist_is_an_error():
    with pytest.raises(TemplateNotFound):
        templates.render("../model.py")


def test_the_digest_is_of_all_template_files():
    assert len(templates.digest()) == 64
    assert templates.digest() == templates.digest()


def test_no_template_has_carriage_returns_tabs_or_blanks_at_the_end_of_a_line():
    for name, source in templates._sources().items():
        for number, line in enumerate(source.split("\n"), 1):
            assert line == line.rstrip().replace("\t", " "), f"{name}:{number}"
