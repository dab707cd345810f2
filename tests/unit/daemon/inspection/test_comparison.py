"""Comparison of two publications: models, files and unified diffs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.inspection.comparison import (
    FileChange,
    ModelChangesView,
    ModelVersionView,
    compare_files,
    compare_models,
    differing,
    file_views,
    texts_of,
    unified,
)
from renderers.composition import Composition
from renderers.values import RenderedFile
from tests.support.buckets import composition_with


def test_models_are_added_removed_moved_and_changed():
    before = composition_with("1", "1", "1")
    document = composition_with("1", "2", "1", "1").model_dump(mode="json", exclude_none=True)
    del document["models"][0]
    document["models"][1]["serving"]["image"] = "registry.example.com/other:1"
    document["proxy"]["image"] = "registry.example.com/proxy:2"
    after = Composition.model_validate(document)

    assert compare_models(before, after).words == (
        "+ 104 1",
        "- 101 1",
        "~ 102 1 → 2",
        "~ 103 1: same version, other settings",
        "~ proxy",
    )
    assert compare_models(before, before).words == ()


def test_files_that_name_the_state_and_credentials_are_not_compared():
    before = [
        RenderedFile("base/a", b"1\n"),
        RenderedFile("base/.rebundle.json", b"1"),
        RenderedFile("example/creds/x", b"1"),
    ]
    after = [
        RenderedFile("base/b", b"1\n"),
        RenderedFile("base/.rebundle.json", b"2"),
        RenderedFile("example/creds/x", b"2"),
    ]

    assert [
        (difference.path, difference.status) for difference in compare_files(before, after)
    ] == [
        ("base/a", "removed"),
        ("base/b", "added"),
    ]


def test_a_mode_alone_is_a_difference():
    (change,) = compare_files(
        [RenderedFile("base/a", b"1\n")], [RenderedFile("base/a", b"1\n", executable=True)]
    )

    assert change.status == "modified"
    assert list(unified(change)) == ["--- a/base/a", "+++ b/base/a", "mode 0644 → 0755"]


def test_paths_are_escaped_even_where_contents_are_not():
    change = FileChange("base/\033[31m", None, RenderedFile("base/\033[31m", b"\033]0;owned\007\n"))

    assert list(unified(change)) == [
        "--- /dev/null",
        "+++ b/base/\\x1b[31m",
        "@@ -0,0 +1 @@",
        "+\033]0;owned\007",
    ]


@pytest.mark.parametrize(
    ("old", "new", "diff"),
    [
        (
            "1234567",
            "abcde67",
            ["@@ -1,7 +1,7 @@", *["-1", "-2", "-3", "-4", "-5", "+a", "+b", "+c", "+d", "+e"]],
        ),
        ("1234567", "12cdefg", ["@@ -1,7 +1,7 @@", " 1", " 2", *["-3", "-4", "-5", "-6", "-7"]]),
        ("123456789", "12345678x", ["@@ -6,4 +6,4 @@", " 6", " 7", " 8", "-9", "+x"]),
        ("1", "12", ["@@ -1 +1,2 @@", " 1", "+2"]),
        ("1", "", ["@@ -1 +0,0 @@", "-1"]),
        ("12345678", "1234x5678", ["@@ -2,6 +2,7 @@", *[" 2", " 3", " 4", "+x", " 5", " 6", " 7"]]),
    ],
)
def test_a_diff_has_three_lines_of_context_and_the_lines_of_both_files(old, new, diff):
    before = RenderedFile("f", "".join(f"{line}\n" for line in old).encode())
    after = RenderedFile("f", "".join(f"{line}\n" for line in new).encode())

    found = list(unified(FileChange("f", before, after)))

    assert found[:2] == ["--- a/f", "+++ b/f"]
    assert found[2 : 2 + len(diff)] == diff


def test_a_removed_file_has_no_name_after_and_bytes_that_are_no_text_are_replaced():
    change = FileChange("f", RenderedFile("f", b"\xff\n"), None)

    assert list(unified(change)) == ["--- a/f", "+++ /dev/null", "@@ -1 +0,0 @@", "-\ufffd"]


def test_views_name_the_models_and_count_the_files():
    before = composition_with("1")
    document = before.model_dump(mode="json", exclude_none=True)
    document["models"][0]["serving"]["image"] = "registry.example.com/other:1"
    changes = compare_models(before, Composition.model_validate(document))
    change = FileChange("f", None, RenderedFile("f", b"1\n2\n"))

    assert ModelChangesView.of(changes).changed == (ModelVersionView("101", "1"),)
    assert [differing([change] * number) for number in range(3)] == [
        "no file differs",
        "1 file differs",
        "2 files differ",
    ]
    (view,) = file_views([change], texts_of([change]))
    assert view.diff == "--- /dev/null\n+++ b/f\n@@ -0,0 +1,2 @@\n+1\n+2\n"


lines = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=40)


@given(lines, lines)
def test_applying_a_unified_diff_to_the_old_text_gives_the_new_one(old, new):
    change = FileChange("f", _file(old), _file(new))

    assert _applied(old, list(unified(change))[2:]) == new


def _file(content):
    return RenderedFile("f", "".join(f"{line}\n" for line in content).encode())


def _applied(old, diff):
    """A strict reader of unified diffs: every line number and every context line must match."""
    result, at = [], 0
    for line in diff:
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            start = int(start) - (0 if count == "0" else 1)
            result += old[at:start]
            at = start
            new_start, _, new_count = line.split()[2][1:].partition(",")
            assert len(result) == int(new_start) - (0 if new_count == "0" else 1)
        elif line.startswith("+"):
            result.append(line[1:])
        else:
            assert line[1:] == old[at]
            at += 1
            if line.startswith(" "):
                result.append(line[1:])
    return result + old[at:]


def test_a_changed_line_in_the_middle_has_three_lines_of_context():
    old = [str(number) for number in range(20)]
    new = [*old[:10], "ten", *old[11:]]

    assert list(unified(FileChange("f", _file(old), _file(new)))) == [
        "--- a/f",
        "+++ b/f",
        "@@ -8,7 +8,7 @@",
        " 7",
        " 8",
        " 9",
        "-10",
        "+ten",
        " 11",
        " 12",
        " 13",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(None, ["x"], "@@ -0,0 +1 @@"), (["x"], None, "@@ -1 +0,0 @@")],
)
def test_an_added_or_removed_file_is_compared_with_nothing(before, after, expected):
    change = FileChange("f", before and _file(before), after and _file(after))

    assert list(unified(change))[2] == expected
    assert "/dev/null" in list(unified(change))[0 if before is None else 1]
