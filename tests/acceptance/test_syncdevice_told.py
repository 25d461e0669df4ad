"""What the user of the Python SDK is told of changes that met those of others, against the real server."""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from syncdevice import Outcome, Replica

from syncserver.environment import BASE_DIR
from tests.acceptance.acceptance_support import COUNTRY, SHARED, Server

SECONDS_MAX = 60


@pytest.fixture
def replicas(server: Server, tmp_path: Path) -> list[Replica]:
    codes = server.codes([SHARED] * 2)
    return [
        Replica.enroll(server.url, code, tmp_path / f"{name}.db", name=name)
        for name, code in zip(("phone", "tablet"), codes, strict=True)
    ]


def do(replica: Replica, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(replica.connect()) as conn, conn:
        return conn.execute(sql, parameters).fetchall()


def make_conflict(phone: Replica, tablet: Replica) -> str:
    """Both edit the title of a new contact, and the tablet comes first; the contact."""
    row = str(do(phone, "INSERT INTO contact (first_name) VALUES ('Ana') RETURNING id")[0][0])
    phone.sync()
    tablet.sync()
    for replica, title in ((phone, "mine"), (tablet, "theirs")):
        do(replica, "UPDATE contact SET title = ? WHERE id = ?", title, row)
    tablet.sync()
    return row


def test_example_of_the_readme_shows_a_conflict_and_a_rejection(replicas: list[Replica]) -> None:
    phone, tablet = replicas
    make_conflict(phone, tablet)
    do(phone, "INSERT INTO contact (first_name, email) VALUES ('bad', 'no address')")
    readme = (BASE_DIR / "clients" / "python" / "README.md").read_text()
    section = readme.split("## Show the user what became of a change")[1]
    (example,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    command = [sys.executable, "-c", example, phone.path]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=True).stdout
    assert "Your change of the contact (title: “mine”)" in shown
    assert "others changed title meanwhile" in shown
    assert "you: {'title': 'mine'}, the server: {'title': 'theirs'}" in shown
    assert re.search(r"was refused: email: \w", shown)


def test_sync_of_a_device_without_conflicts_is_told_of_nothing(replicas: list[Replica]) -> None:
    phone, tablet = replicas
    row = make_conflict(phone, tablet)
    told: list[Outcome] = []
    phone.sync(on_conflict=told.append)
    assert [(outcome.row, outcome.reasons[0]["field"]) for outcome in told] == [(row, "title")]
    assert (tablet.conflicts(), tablet.rejections()) == ([], [])


def test_sync_shows_a_merge_in_the_table_and_tells_of_a_value_that_was_joined(replicas: list[Replica]) -> None:
    phone, tablet = replicas
    row = str(do(phone, "INSERT INTO contact (first_name) VALUES ('Ana') RETURNING id")[0][0])
    phone.sync()
    tablet.sync()
    do(tablet, "UPDATE contact SET note = 'theirs', email = 'ana@example.org' WHERE id = ?", row)
    tablet.sync()
    do(phone, "UPDATE contact SET note = 'mine' WHERE id = ?", row)
    do(phone, "UPDATE contact SET phone = '99' WHERE id = ?", row)
    told: list[Outcome] = []
    assert phone.sync(on_conflict=told.append).outcomes == {"merged": 2}
    assert do(phone, "SELECT note, email, phone FROM contact WHERE id = ?", row) == [
        ("theirs\nmine", "ana@example.org", "99")
    ]
    assert [(outcome.entered, outcome.state) for outcome in told] == [({"note": "mine"}, "mixed")]
    assert phone.status().pending == 0


@pytest.mark.parametrize(("field", "state"), [("phone", "open"), ("name", "server")])
def test_sync_knows_from_the_answer_whether_a_person_has_to_decide(
    replicas: list[Replica], field: str, state: str
) -> None:
    phone, tablet = replicas
    row = str(do(phone, "INSERT INTO customer (name, country) VALUES ('C', ?) RETURNING id", COUNTRY)[0][0])
    phone.sync()
    tablet.sync()
    for replica, value in ((tablet, "theirs"), (phone, "mine")):
        do(replica, f"UPDATE customer SET {field} = ? WHERE id = ?", value, row)
        replica.sync()
    assert [outcome.state for outcome in phone.conflicts()] == [state]
    assert len(phone.conflicts(unresolved_only=True)) == (state == "open")


def decide(server: Server, conflict: str | None, what: str) -> None:
    """Have anna decide a conflict; `what` is a statement that knows `conflict`, its id."""
    script = (
        f"from uuid import UUID\nfrom sync.resolve import resolve_many, undo\nconflict = UUID({conflict!r})\n{what}"
    )
    server.manage("shell", "--no-imports", "-c", script)


TAKE = "resolve_many([conflict], {side!r}, author='user:anna', comment='Asked Ana.')"
TAKE_BACK = """
from sync.models import Decision
undo([Decision.objects.latest("at").pk], author="user:bob")
"""


def test_sync_tells_what_a_person_decided_later_when_the_table_has_it(server: Server, replicas: list[Replica]) -> None:
    phone, tablet = replicas
    row = make_conflict(phone, tablet)
    phone.sync()
    (waiting,) = phone.conflicts(unresolved_only=True)
    assert (waiting.entered, waiting.server) == ({"title": "mine"}, {"title": "theirs"})
    told: list[tuple[str, str, str, Any]] = []

    def note(outcome: Outcome) -> None:
        (title,) = do(phone, "SELECT title FROM contact WHERE id = ?", outcome.row)[0]
        told.append((outcome.state, outcome.by, outcome.comment, title))

    decide(server, waiting.conflict, TAKE.format(side="device"))
    assert phone.sync(on_outcome=note).decided == 1
    assert told == [("device", "anna", "Asked Ana.", "mine")]
    assert "was taken (anna, " in phone.conflicts()[0].describe()
    decide(server, waiting.conflict, TAKE_BACK)
    tablet.sync()
    phone.sync(on_outcome=note)
    phone.sync(on_outcome=note)
    assert [(state, title) for state, _, _, title in told[1:]] == [("open", "theirs")]
    assert do(tablet, "SELECT title FROM contact WHERE id = ?", row) == [("theirs",)]
    assert tablet.outcomes() == []


def test_sync_that_is_offline_for_long_learns_all_decisions_at_once(server: Server, replicas: list[Replica]) -> None:
    phone, tablet = replicas
    make_conflict(phone, tablet)
    phone.sync()
    (waiting,) = phone.conflicts()
    for side in ("server", "device", "server"):
        decide(server, waiting.conflict, TAKE.format(side=side))
    told: list[str] = []
    phone.sync(on_outcome=lambda outcome: told.append(outcome.state))
    assert told == ["server", "device", "server"]
    assert phone.conflicts(unresolved_only=True) == []


MEND = """
from sync.models import Rejection
from sync.quarantine import discard, replay
first, second = Rejection.objects.filter(mutation__in={ids!r}).order_by("place")
replay(first.pk, {{"first_name": "Bea", "email": "bea@example.org"}}, author="user:anna", comment="A typing error.")
discard([second.pk], author="user:anna", comment="A duplicate.")
"""


def test_sync_tells_what_became_of_what_was_refused(server: Server, replicas: list[Replica]) -> None:
    phone, tablet = replicas
    insert = "INSERT INTO contact (first_name, email) VALUES (?, 'no address') RETURNING id"
    mended, given_up = (do(phone, insert, name)[0][0] for name in ("Bea", "Cid"))
    phone.sync()
    waiting = phone.rejections(unresolved_only=True)
    assert [outcome.row for outcome in waiting] == [mended, given_up]
    server.manage("shell", "--no-imports", "-c", MEND.format(ids=[outcome.id for outcome in waiting]))
    told: list[tuple[str, str, str]] = []
    phone.sync(on_outcome=lambda outcome: told.append((outcome.row, outcome.state, outcome.comment)))
    assert told == [(mended, "replayed", "A typing error."), (given_up, "discarded", "A duplicate.")]
    assert do(phone, "SELECT email FROM contact WHERE id IN (?, ?)", mended, given_up) == [("bea@example.org",)]
    assert "discarded (anna, " in phone.rejections()[1].describe()
    assert phone.rejections(unresolved_only=True) == []
    assert tablet.sync().decided == 0
