"""`docs/protocol.md`, `docs/legacy-promises.md` and the code agree: rules and tests, and the tables of codes."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from syncserver.errors import DECISION_REFUSALS, PROBLEMS, REJECTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
RULES = {"protocol": PAGE, "legacy": (ROOT / "docs" / "legacy-promises.md").read_text()}  # by the mark of their tests
Named = list[tuple[str, str]]


def sections(page: str) -> list[str]:
    return re.split(r"^### ", page, flags=re.M)[1:]


def named(page: str) -> Named:
    """(rule, test) as the document has them."""
    return [
        (section.split(" ", 1)[0], test)
        for section in sections(page)
        for test in re.findall(r"^- `(tests/[\w/]+\.py::\w+)`$", section, re.M)
    ]


@cache
def decorated() -> list[tuple[ast.Call, str]]:
    """(mark with arguments, test) of all tests."""
    return [
        (mark, f"{file.relative_to(ROOT)}::{node.name}")
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call)
    ]


def marked(name: str) -> Named:
    """(rule, test) as the tests are marked."""
    marks = [(mark, test) for mark, test in decorated() if ast.unparse(mark.func) == f"pytest.mark.{name}"]
    return [(ast.literal_eval(mark.args[0]), test) for mark, test in marks]


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_names_its_tests_and_every_test_its_rule(name: str) -> None:
    assert sorted(named(RULES[name])) == sorted(marked(name))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_test_and_a_name_of_its_own(name: str) -> None:
    rules = [section.split(" ", 1)[0] for section in sections(RULES[name])]
    assert len(rules) == len(set(rules))
    assert set(rules) == {rule for rule, _ in named(RULES[name])}


def test_every_rule_of_the_protocol_has_a_reason() -> None:
    for section in sections(PAGE):
        assert "*Reason:*" in section, section.split("\n", 1)[0]


def test_the_tables_of_codes_are_the_catalogues() -> None:
    problems, rejections = PAGE.split("## Problems")[1].split("## Why a mutation is rejected")
    assert rows(problems) == {code: f"{e.status} | {e.title} | {e.advice}" for code, e in PROBLEMS.items()}
    assert rows(rejections) == dict(REJECTIONS)


def test_the_table_of_reasons_not_to_decide_is_the_catalogues() -> None:
    guide = (ROOT / "docs" / "conflicts.md").read_text()
    table = guide.split("These are the reasons")[1].split("\n## ")[0]
    assert rows(table) == dict(DECISION_REFUSALS)


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.M))
