"""What differs between two texts, and how it is marked."""

from html import unescape
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sync.pages.marked import excerpt, marked
from sync.pages.text_diff import TOKENS_MAX, runs

TEXTS = st.text(st.sampled_from("ab .\n<&ß"), max_size=40)
LONG = " ".join(f"word{number}" for number in range(1_300))


@given(TEXTS, TEXTS)
@example("aa", "a")
@example("x x", "x")
def test_runs_are_both_texts(before: str, after: str) -> None:
    found = runs(before, after)
    assert "".join(run.text for run in found if run.kind != "added") == before
    assert "".join(run.text for run in found if run.kind != "removed") == after
    assert all(run.text for run in found)
    assert all(one.kind != other.kind for one, other in pairwise(found))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("030-0074321", "030-0076545", ["030-", "-0074321", "+0076545"]),
        ("call before noon", "call after noon", ["call ", "-before", "+after", " noon"]),
        ("a b", "a c b", ["a ", "+c ", "b"]),
        ("same", "same", ["same"]),
        ("", "new", ["+new"]),
        ("the cat", "of ink", ["-the cat", "+of ink"]),  # nothing but a space in common: no patchwork
    ],
)
def test_words_are_marked_whole(before: str, after: str, told: list[str]) -> None:
    signs = {"same": "", "removed": "-", "added": "+"}
    assert [signs[run.kind] + run.text for run in runs(before, after)] == told


def test_texts_of_ten_thousand_characters_are_told_by_words() -> None:
    after = LONG.replace("word9 ", "nine ").replace("word1250 ", "late ")
    assert [run.text for run in runs(LONG, after) if run.kind == "added"] == ["nine", "late"]


def test_texts_with_too_many_words_are_told_by_lines_and_then_as_a_whole() -> None:
    before = "".join(f"{'a b ' * 30}{number}.\n" for number in range(400))
    after = before.replace(" 7.\n", " 8.\n").replace(" 390.\n", " 391.\n")
    added = [run.text for run in runs(before, after) if run.kind == "added"]
    assert [text.split()[-1] for text in added] == ["8.", "391"]
    assert sum(map(len, added)) < 300
    points = "a." * TOKENS_MAX
    assert [run.kind for run in runs(f"x{points}", f"y{points[:-1]}!")] == ["removed", "added"]


# --- marked


@given(TEXTS, TEXTS)
def test_marks_are_the_only_tags(before: str, after: str) -> None:
    html = str(marked(before, after))
    for tag in ("ins", "del"):
        html = html.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    assert "<" not in html
    assert after in unescape(html)


def test_short_text_shows_only_what_it_is() -> None:
    assert marked("030-1", "030-9") == "030-<ins>9</ins>"
    assert marked(None, "<b>") == "&lt;b&gt;"


def test_long_stretch_that_is_the_same_is_folded_away() -> None:
    html = marked(LONG, LONG.replace("word1295 ", "late "))
    assert "<del>word1295</del><ins>late</ins>" in html
    assert html.count("<details><summary>") == 1
    assert len(excerpt(LONG, LONG.replace("word1295 ", "late "))) < 200
