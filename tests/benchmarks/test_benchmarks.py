"""The benchmarks work at the smallest size, so that they do not rot between two runs."""

import pytest

from tests.benchmarks import job, measure, peers, run
from tests.benchmarks.backlog import drain
from tests.benchmarks.measure import Series, Timing
from tests.benchmarks.run import BEGIN, DOCS, END, HEAD, Result, check, line
from tests.benchmarks.wire import Request, in_a_row


def series(*walls: float) -> Series:
    return Series(tuple(Timing(wall, wall) for wall in walls))


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    assert measure.ratio(series(10, 30, 20), series(1, 10, 5)) == 4


def test_participants_take_turns_and_the_first_round_does_not_count():
    calls = []
    taken = measure.in_turn(
        {"a": lambda n: calls.append(("a", n)), "b": lambda n: calls.append(("b", n))}, 2
    )

    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(item.rounds) for item in taken.values()] == [2, 2]


def test_a_template_of_the_whole_file_makes_the_bytes_that_are_rendered():
    composition = job.even(5)

    assert peers.Jinja.of(composition).render(job.template_values(composition)) == job.compose_file(
        job.Daemon().render(composition)
    )


def test_a_script_with_ruamel_makes_the_bytes_that_are_rendered():
    composition, image = job.mixed(5), "registry.example.com/other/image:9"
    before, after = (
        job.compose_file(job.Daemon().render(item)).decode()
        for item in (composition, job.with_image(composition, image))
    )

    assert before != after
    assert peers.whole_document(before, peers.service_of(composition), image) == after


@pytest.mark.parametrize("change", [job.with_version, job.with_one_more, job.with_one_less])
def test_every_change_of_the_benchmark_changes_something(change):
    composition = job.mixed(5)

    assert (
        change(composition, "77" if change is job.with_version else 1).digest != composition.digest
    )


@pytest.mark.parametrize("goal", ["P1", "P2", "P9", "P16"])
def test_a_case_runs_and_is_reported_with_its_figure(goal):
    results, failures = run.run((5,), {goal}, lambda row: None)

    assert failures == []
    assert results
    assert all(result.value > 0 and result.detail for result in results)


def test_a_backlog_is_drained_completely_and_compared_with_its_floor():
    done = drain(3, 30)

    assert 3 <= done.publications <= 6
    assert 0 < done.floor < done.cpu


def test_a_figure_that_is_worse_than_the_table_is_reported():
    def measured(value: float, wanted: str) -> Result:
        return Result("P1", "one image", 500, value, "x", wanted, True, {"ours": 1})

    table = "\n".join([HEAD, line(measured(1000, "≥ 500"))])

    assert check([measured(990, "≥ 500")], table) == []
    assert check([measured(400, "≥ 500")], table) == ["P1 one image 500: 400, the table has 1000"]
    assert check([measured(2000, "≤ 500")], table) == ["P1 one image 500: 2000, the table has 1000"]


def test_a_figure_with_a_goal_that_the_table_lacks_is_reported():
    def measured(job: str, wanted: str) -> Result:
        return Result("P1", job, 500, 1000, "x", wanted, True, {"ours": 1})

    table = "\n".join([HEAD, line(measured("one image", "≥ 500"))])
    results = [
        measured("one image", "≥ 500"),
        measured("two images", "≥ 500"),
        measured("no goal", ""),
    ]

    assert check(results, table) == ["P1 two images 500: no row in the table"]


def test_the_page_has_a_place_for_the_figures():
    text = DOCS.read_text()

    assert text.index(BEGIN) < text.index(END)


def test_sequential_requests_are_the_longest_run_without_overlap():
    def requests(*times):
        return [Request(begun, ended, "PUT", "/", 0, 0) for begun, ended in times]

    assert in_a_row(requests()) == 0
    assert in_a_row(requests((0, 2), (0, 3), (3, 4))) == 2, (
        "archive and manifest concurrently, then the pointer"
    )
    assert in_a_row(requests((0, 1), (1, 2), (2, 3))) == 3
    assert in_a_row(requests((0, 10), (1, 2), (3, 4))) == 2
