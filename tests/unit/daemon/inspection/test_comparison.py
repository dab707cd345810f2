"""Comparison of two publications: models, files and unified diffs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.inspection.comparison import FileChange, compare_files, compare_models, unified
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
