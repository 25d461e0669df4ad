"""Tokens say what they were given, and nothing else is a token."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.token import InvalidToken, Run, Snapshot, Token, decode, encode

KEY, OTHER = b"a key", b"another key"


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(1, 2**63))
    open_ones = sorted(draw(st.sets(st.integers(xmin, xmin + 1_000), max_size=20)))
    xmax = max([xmin, *(xid + 1 for xid in open_ones)])
    return Snapshot(f"{xmin}:{xmax}:{','.join(map(str, open_ones))}")


POSITION = (st.integers(1, 200), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
RUNS = st.builds(Run, snapshots(), st.none() | snapshots(), *POSITION)
TOKENS = st.builds(Token, st.uuids(), st.uuids(), st.none() | snapshots(), st.none() | RUNS)


@given(TOKENS)
def test_token_round_trip_also_after_the_key_was_replaced(token: Token) -> None:
    text = encode(token, KEY)
    assert decode(text, [KEY]) == decode(text, [OTHER, KEY]) == token
    assert all(character.isalnum() or character in "-_" for character in text)


@given(TOKENS)
def test_token_of_another_key_is_invalid(token: Token) -> None:
    with pytest.raises(InvalidToken):
        decode(encode(token, KEY), [OTHER])


@given(st.text() | st.binary().map(lambda raw: raw.hex()))
def test_any_other_text_is_invalid(text: str) -> None:
    with pytest.raises(InvalidToken):
        decode(text, [KEY])


@given(TOKENS, st.data())
def test_token_with_any_byte_changed_is_invalid(token: Token, data: st.DataObject) -> None:
    text = encode(token, KEY)
    at = data.draw(st.integers(0, len(text) - 2))  # the last character may hold bits that mean nothing
    changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    with pytest.raises(InvalidToken):
        decode(changed, [KEY])


@pytest.mark.parametrize("text", ["", "1:2", "2:1:", "5:9:9", "5:9:4", "5:9:7,6", "5:9:6,6", "0:1:", "x:y:", "1:2:,"])
def test_what_postgresql_would_not_print_is_no_snapshot(text: str) -> None:
    with pytest.raises(InvalidToken):
        Snapshot(text)


def test_token_grows_by_little() -> None:
    token = Token(UUID(int=0), UUID(int=1), Snapshot("900000:900100:" + ",".join(map(str, range(900_000, 900_020)))))
    assert len(encode(token, KEY)) < 300
