"""`./headrace test`: which suites run, in which stages, with which arguments of pytest."""

from pathlib import Path

import pytest

from stack.develop.suites import NEEDS, QUICK_FILES, STATIC, TESTS, Stage, available_suites, impossible_here, plan
from stack.errors import HeadraceError

SUITES = ["unit", "integration", "system", "chaos"]


def test_everything_runs_by_default() -> None:
    run = plan([], SUITES)
    assert run.static == list(STATIC)
    assert run.suites == SUITES
    assert run.needs_servers


def test_what_a_machine_cannot_run_is_left_out_and_said_unless_it_is_named() -> None:
    suites = [*SUITES, "compose"]
    assert plan([], suites).suites == suites
    run = plan([], suites, ["compose"])
    assert (run.suites, run.left_out) == (SUITES, ["compose"])
    run = plan(["compose"], suites, ["compose"])
    assert (run.suites, run.left_out) == (["compose"], [])
    with pytest.raises(HeadraceError, match="cannot run compose, which HEADRACE_TEST_REQUIRED names"):
        plan([], suites, ["compose"], ["cluster", "compose"])
    assert plan([], suites, [], ["compose"]).left_out == []
    with pytest.raises(HeadraceError, match="HEADRACE_TEST_REQUIRED names 'compose,cluster'"):
        plan([], suites, [], ["compose,cluster"])
    assert set(impossible_here()) <= set(NEEDS) <= set(available_suites())


def started(*arguments: str, suites: list[str] = SUITES) -> list[tuple[str, list[str], list[str]]]:
    """For each start of pytest on two cores: its name, the suites, the arguments. No test has a mark."""
    stages = plan(list(arguments), suites).stages(cores=2, tests=Path("/nowhere"))
    return [(it.name, it.suites, it.arguments) for it in stages]


def test_tests_run_side_by_side_and_those_that_measure_run_alone() -> None:
    assert started("--", "-x") == [
        ("unit", ["unit"], ["-m", "not alone and not deep", "-x", "-n", "2", "--dist", "loadgroup"]),
        (
            "side by side",
            ["system", "integration"],
            ["-m", "not alone and not deep", "-x", "-n", "4", "--dist", "loadgroup"],
        ),
        ("one by one", ["chaos"], ["-m", "alone and not deep", "-x"]),
    ]
    assert started("chaos") == [("one by one", ["chaos"], ["-m", "alone"])]
    assert [name for name, _, _ in started("unit")] == ["unit"]
    assert [name for name, _, _ in started("types")] == []


def test_a_suite_of_which_a_test_runs_alone_is_started_once_more_for_that(tmp_path: Path) -> None:
    for suite, text in (("unit", "pass"), ("system", "@pytest.mark.alone")):
        (tmp_path / suite / "room").mkdir(parents=True)
        (tmp_path / suite / "room" / "test_x.py").write_text(text)
    stages = plan(["unit", "system"], SUITES).stages(2, tmp_path)
    assert [(it.name, it.suites) for it in stages] == [
        ("unit", ["unit"]),
        ("side by side", ["system"]),
        ("one by one", ["system"]),
    ]


@pytest.mark.parametrize("argument", ["-k", "-kduplicate", "-m", "-s", "--pdb", "--lf", "-n", "--co", "--chaos-record"])
def test_who_chooses_tests_or_looks_into_one_gets_a_single_pytest(argument: str) -> None:
    assert started("system", "unit", "--", argument) == [("one by one", ["unit", "system"], [argument])]


def test_what_takes_long_runs_only_when_its_suite_is_named_or_at_night() -> None:
    assert all("not deep" in arguments[1] for _, _, arguments in started())
    assert all("not deep" in arguments[1] for _, _, arguments in started("quick"))
    assert not any("not deep" in arguments[1] for _, _, arguments in started("nightly"))
    assert not any("not deep" in arguments[1] for _, _, arguments in started("system"))


def test_at_night_everything_runs_that_this_machine_can_run() -> None:
    suites = [*SUITES, "compose", "soak"]
    run = plan(["nightly"], suites, ["compose"])
    assert (run.static, run.suites, run.left_out) == (list(STATIC), SUITES, ["compose"])
    with pytest.raises(HeadraceError, match="cannot run compose"):
        plan(["nightly"], suites, ["compose"], ["compose"])


def test_quick_checks_everything_static_all_units_and_the_path_of_an_order() -> None:
    run = plan(["quick"], SUITES)
    assert (run.static, run.suites) == (list(STATIC), ["unit", *QUICK_FILES])
    assert run.needs_servers
    assert all((TESTS / file).is_file() for file in QUICK_FILES)
    assert plan(["quick", "integration"], SUITES).suites == ["integration", "unit"]


def test_a_soak_runs_when_it_is_named_and_for_as_long_as_it_is_told() -> None:
    suites = [*SUITES, "soak"]
    assert plan([], suites).suites == SUITES
    run = plan(["soak", "--minutes", "30", "--", "-x"], suites)
    assert run.stages(2) == [Stage("one by one", ["soak"], ["-m", "alone", "--minutes", "30", "-x"], may_be_empty=True)]
    assert run.stages(2)[0].paths == ["tests/chaos/soak.py"]
    assert run.needs_servers


@pytest.mark.parametrize(
    "arguments", [["unit", "--minutes", "3"], ["soak", "--minutes"], ["soak", "--minutes", "x"], ["--minutes", "3"]]
)
def test_minutes_are_whole_and_for_a_soak(arguments: list[str]) -> None:
    with pytest.raises(HeadraceError, match="--minutes") as raised:
        plan(arguments, [*SUITES, "soak"])
    assert raised.value.fix == "./headrace test soak --minutes 10"


def test_suites_are_chosen_by_name_and_run_in_order() -> None:
    run = plan(["system", "lint", "unit", "--", "-k", "lint"], SUITES)
    assert (run.static, run.suites, run.pytest_arguments) == (["lint"], ["unit", "system"], ["-k", "lint"])


def test_unit_needs_no_servers() -> None:
    assert not plan(["unit"], SUITES).needs_servers
    assert not plan(["types"], SUITES).needs_servers


def test_an_unknown_suite_is_an_error_that_names_the_known() -> None:
    with pytest.raises(HeadraceError, match="no suite 'unti'") as raised:
        plan(["unti"], SUITES)
    assert "unit, integration" in raised.value.cause


def test_what_looks_like_pytests_is_an_error_that_says_where_it_goes() -> None:
    with pytest.raises(HeadraceError, match="no option '-k'") as raised:
        plan(["unit", "-k", "foo"], SUITES)
    assert raised.value.fix == "./headrace test unit -- -k foo"


def test_a_suite_is_a_directory_with_tests(tmp_path: Path) -> None:
    for suite in ("unit", "chaos", "empty"):
        (tmp_path / suite).mkdir()
    (tmp_path / "unit" / "test_x.py").touch()
    (tmp_path / "chaos" / "test_x.py").touch()
    assert available_suites(tmp_path) == ["unit", "chaos"]
    (tmp_path / "chaos" / "soak.py").touch()
    assert available_suites(tmp_path) == ["unit", "chaos", "soak"]
