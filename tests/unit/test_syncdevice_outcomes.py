"""What an answer means at first, and how it is put to the user: pure functions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syncdevice import Outcome
from syncdevice.outcomes import STATES, first_state

MINE = {"note": "mine", "email": "a@b.c"}
MANUAL = {"note": "manual"}


@pytest.mark.parametrize(
    ("op", "result", "policy", "policies", "state"),
    [
        ("update", {"status": "conflict", "row": {"note": "x", "email": "y"}}, "server_wins", {}, "server"),
        ("update", {"status": "conflict", "row": {"note": "x", "email": "a@b.c"}}, "server_wins", {}, "mixed"),
        ("update", {"status": "conflict", "row": {"note": "x", "email": "y"}}, "manual", {}, "open"),
        ("update", {"status": "conflict", "row": {"note": "x", "email": "y"}}, "function", {}, "open"),
        # Only the policies of fields that the device did not get count.
        ("update", {"status": "conflict", "row": {"note": "x", "email": "a@b.c"}}, "server_wins", MANUAL, "open"),
        ("update", {"status": "conflict", "row": {"note": "mine", "email": "y"}}, "server_wins", MANUAL, "mixed"),
        ("update", {"status": "conflict", "row": None}, "server_wins", {}, "server"),
        ("update", {"status": "conflict", "row": None}, "manual", {}, "open"),
        ("delete", {"status": "conflict", "row": {"note": "x"}}, "server_wins", {}, "server"),
        ("delete", {"status": "conflict", "row": {"note": "x"}}, "manual", {}, "open"),
        # A server that says it is believed, unless it says what this SDK does not know.
        ("update", {"status": "conflict", "state": "open", "row": None}, "server_wins", {}, "open"),
        ("update", {"status": "conflict", "state": "perhaps", "row": None}, "server_wins", {}, "server"),
        ("update", {"status": "merged", "row": MINE}, "device_wins", {}, "device"),
        ("update", {"status": "merged", "row": {**MINE, "note": "both"}}, "function", {}, "mixed"),
        ("delete", {"status": "merged", "row": None}, "device_wins", {}, "device"),
        ("update", {"status": "rejected", "row": None}, "server_wins", {}, "open"),
    ],
)
def test_answer_means_this_at_first(
    op: str, result: dict[str, Any], policy: str, policies: dict[str, str], state: str
) -> None:
    assert first_state(op, result, {} if op == "delete" else MINE, policy, policies) == state


def test_decimal_with_another_number_of_digits_is_the_same() -> None:
    row = {"credit": "12.50", "version": "1.0.0", "phone": "01"}
    assert first_state("update", {"status": "merged", "row": row}, {"credit": "12.5"}, "", {}) == "device"
    assert first_state("update", {"status": "merged", "row": row}, {"version": "1.0"}, "", {}) == "mixed"
    assert first_state("update", {"status": "merged", "row": row}, {"phone": "1"}, "", {}) == "mixed"


def outcome(**more: Any) -> Outcome:
    plain: dict[str, Any] = {
        "id": "m",
        "entity": "contact",
        "row": "r",
        "op": "update",
        "status": "conflict",
        "entered": {"note": "mine"},
        "added": None,
        "errors": [],
        "conflict": "c",
        "server_row": {"id": "r", "_rev": 9, "note": "theirs", "email": "x"},
        "made_at": "2026-11-21T08:00:00.000000Z",
        "received_at": "2026-11-21T08:00:00.000000Z",
        "label": "Contact",
    }
    return Outcome(**plain | more)


ANNA: dict[str, Any] = {"by": "anna", "decided_at": "2026-11-21T09:00:00.000000Z"}
EMAIL: dict[str, Any] = {
    "status": "rejected",
    "entered": {"email": "x"},
    "errors": [{"field": "email", "code": "invalid_value", "message": "Enter a valid address."}],
}


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (
            outcome(),
            "Your change of the contact (note: “mine”) waits for a person's decision: others changed note meanwhile.",
        ),
        (
            outcome(state="server"),
            "Your change of the contact (note: “mine”) was not taken: others changed note meanwhile,"
            " and the server's values stay.",
        ),
        (
            outcome(state="device", comment="You were right.", **ANNA),
            "Your change of the contact (note: “mine”) was taken (anna, 2026-11-21): “You were right”.",
        ),
        (
            outcome(state="mixed", entered={"note": "mine", "email": "x"}),
            "Your change of the contact (note: “mine”, email: “x”) was taken in part: others changed note meanwhile.",
        ),
        (
            outcome(status="merged", state="device", added={"visits": 2}, entered=None),
            "Your change of the contact (visits: + 2) was taken, together with what others changed.",
        ),
        (
            outcome(status="merged", state="mixed", conflict=None),
            "Your change of the contact (note: “mine”) was merged with what others changed.",
        ),
        (
            outcome(status="merged", state="mixed", conflict=None, **ANNA),
            "Your change of the contact (note: “mine”) was taken in part: others changed note meanwhile"
            " (anna, 2026-11-21).",
        ),
        (
            outcome(state="server", server_row=None),
            "Your change of the contact (note: “mine”) was not taken: the row is no longer there,"
            " and the server's values stay.",
        ),
        (
            outcome(op="delete", entered=None),
            "Your deletion of the contact waits for a person's decision: others changed the row meanwhile.",
        ),
        (
            outcome(op="create", state="server"),
            "Your new contact (note: “mine”) was not taken: a row with this id is there already,"
            " and the server's values stay.",
        ),
        (
            outcome(**EMAIL),
            "Your change of the contact (email: “x”) was refused: email: Enter a valid address."
            " The server keeps it, and a person can mend it.",
        ),
        (
            outcome(**EMAIL, state="replayed", **ANNA),
            "Your change of the contact (email: “x”) was refused at first (email: Enter a valid address),"
            " and applied later (anna, 2026-11-21).",
        ),
        (
            outcome(**EMAIL, state="discarded", comment="A duplicate", **ANNA),
            "Your change of the contact (email: “x”) was refused (email: Enter a valid address),"
            " and discarded (anna, 2026-11-21): “A duplicate”.",
        ),
        (
            outcome(**EMAIL, state="local"),
            "Your change of the contact (email: “x”) was not sent: email: Enter a valid address."
            " It is on this device alone.",
        ),
        (
            outcome(state="postponed", entered={"note": "a\n" * 50}),  # a newer server's word
            "Your change of the contact (note: “" + "a " * 19 + "a…”): postponed.",
        ),
    ],
    ids=lambda value: value.state if isinstance(value, Outcome) else "",
)
def test_outcome_in_words(told: Outcome, text: str) -> None:
    assert told.describe() == text


VALUES = st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.booleans())))


@pytest.mark.slow
@given(
    st.sampled_from(sorted(STATES)),
    st.sampled_from(["create", "update", "delete"]),
    st.sampled_from(["conflict", "merged", "rejected"]),
    VALUES,
    st.none() | VALUES,
)
def test_every_outcome_has_words_of_bounded_length(
    state: str, op: str, status: str, entered: dict[str, Any], row: dict[str, Any] | None
) -> None:
    told = outcome(state=state, op=op, status=status, entered=entered, server_row=row)
    assert 20 < len(told.describe()) < 1_000
    assert all(set(reason) == {"field", "code", "message"} for reason in told.reasons)


def test_what_the_server_has_is_shown_beside_what_was_entered() -> None:
    assert outcome(added={"email": 1}).server == {"note": "theirs", "email": "x"}
    assert outcome(server_row=None).server is None
    assert outcome(op="delete", entered=None).server == outcome().server_row
