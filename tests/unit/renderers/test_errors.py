"""Messages of errors, and the fields that a caller can read."""

from renderers.errors import GateFailure, RenderError, TemplateFault, UnsafeText


def test_unsafe_text_is_reported_with_the_text_and_its_place():
    error = UnsafeText("a shell word", "a b\n")

    assert str(error) == "'a b\\n' cannot be written in a shell word"
    assert (error.sink, error.text) == ("a shell word", "a b\n")
    assert isinstance(error, RenderError)


def test_a_fault_of_a_template_names_its_line():
    error = TemplateFault("conf.env", 3, "unknown name x")

    assert str(error) == "template conf.env:3: unknown name x"
    assert (error.name, error.line, error.message) == ("conf.env", 3, "unknown name x")


def test_a_failure_of_the_gate_names_file_and_line_and_both_values():
    error = GateFailure("base/x", 7, "image = 'a'", "'b'")

    assert str(error) == "base/x:7: expected image = 'a', found 'b'"
    assert (error.file, error.line, error.what, error.found) == ("base/x", 7, "image = 'a'", "'b'")
