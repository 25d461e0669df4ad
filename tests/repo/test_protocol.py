"""`docs/protocol.md` and the code agree: rules and tests in both directions, and the tables of codes."""

import ast
import re
from pathlib import Path

from syncserver.errors import DECISION_REFUSALS, PROBLEMS, REJECTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def named() -> set[tuple[str, str]]:
    """(rule, test) as the document has them."""
    found = set()
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        rule = section.split(" ", 1)[0]
        found |= {(rule, test) for test in re.findall(r"^- `(tests/[\w/]+\.py::\w+)`$", section, re.M)}
    return found


def marked() -> set[tuple[str, str]]:
    """(rule, test) as the tests are marked."""
    found = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.protocol":
                    assert isinstance(node, ast.FunctionDef)
                    found.add((ast.literal_eval(mark.args[0]), f"{file.relative_to(ROOT)}::{node.name}"))
    return found


def test_every_rule_names_its_tests_and_every_test_its_rule() -> None:
    assert named() == marked()


def test_every_rule_has_a_test_and_a_reason() -> None:
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        rule = section.split("\n", 1)[0]
        assert "- `tests/" in section and "*Reason:*" in section, rule


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
