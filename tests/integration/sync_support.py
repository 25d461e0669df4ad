"""A device as tests see it: pulls and pushes through the HTTP stack of this process, against the real database."""

import secrets
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from django.db import connection
from django.test import Client

from devices.authentication import token_hash
from devices.models import Device, Grant
from entities.models import Contact, Customer, Employee, Order

Row = dict[str, Any]

COUNTRY = "Norway"
SHARED = ("global", f"country:{COUNTRY}")  # what a device has unless a test says otherwise


class TestDevice:
    """Keeps what it pulled in `rows`, as a replica does."""

    __test__ = False

    def __init__(self, *scopes: str) -> None:
        secret = secrets.token_urlsafe(16)
        self.device = Device.objects.create(name="a device", token_hash=token_hash(secret))
        self.headers = {"authorization": f"Bearer {secret}"}
        self.token: str | None = None
        self.rows: dict[tuple[str, str], Row] = {}
        for scope in scopes or SHARED:
            self.grant(scope)

    @property
    def id(self) -> str:
        return str(self.device.id)

    def grant(self, scope: str) -> None:
        Grant.objects.create(device=self.device, scope=scope)

    def revoke(self, scope: str) -> None:
        Grant.objects.filter(device=self.device, scope=scope).delete()

    # --- pull ---

    def page(self, token: str | None, limit: int = 10_000) -> dict[str, Any]:
        """One page, as JSON. Raises AssertionError where it is not 200, or tells a row twice."""
        answer = self.ask(token, limit)
        assert answer.status_code == 200, answer.content
        page: dict[str, Any] = answer.json()
        for change in page["changes"].values():
            told = [row["id"] for row in change["upserts"]] + change["deletes"]
            assert len(told) == len(set(told))
        return page

    def ask(self, token: str | None, limit: int | str = 10_000) -> Any:
        query = {"limit": str(limit)} | ({} if token is None else {"token": token})
        return Client().get("/sync/pull", query, headers=self.headers)

    def step(self, limit: int = 10_000) -> bool:
        """Take one page; whether there is more."""
        page = self.page(self.token, limit)
        for entity, change in page["changes"].items():
            for row in change["upserts"]:
                self.rows[entity, row["id"]] = row
            for row_id in change["deletes"]:
                self.rows.pop((entity, row_id), None)
        self.token = page["token"]
        return bool(page["has_more"])

    def pull(self, limit: int = 10_000) -> None:
        while self.step(limit):
            pass

    def of(self, entity: str) -> dict[str, Row]:
        return {row_id: row for (name, row_id), row in self.rows.items() if name == entity}

    # --- push ---

    def send(self, body: Any, **headers: str) -> Any:
        return Client().post("/sync/push", body, "application/json", headers=self.headers | headers)

    def push(self, *mutations: Row, sent_at: str | None = None) -> list[Row]:
        answer = self.send({"mutations": list(mutations), "sent_at": sent_at})
        assert answer.status_code == 200, answer.content
        results: list[Row] = answer.json()["results"]
        assert [result["id"] for result in results] == [mutation["id"] for mutation in mutations]
        return results

    def statuses(self, *mutations: Row) -> list[str]:
        return [result["status"] for result in self.push(*mutations)]


def new_id() -> str:
    return str(uuid.uuid4())


def create(entity: str = "contact", row: str | None = None, **values: Any) -> Row:
    given = values or {"first_name": "Ana"}
    if entity == "customer":
        given = {"country": COUNTRY} | given
    return {"id": new_id(), "entity": entity, "row": row or new_id(), "op": "create", "base": None, "set": given}


def update(row: str, base: int | None, entity: str = "contact", **values: Any) -> Row:
    return {"id": new_id(), "entity": entity, "row": row, "op": "update", "base": base, "set": values}


def delete(row: str, base: int | None, entity: str = "contact") -> Row:
    return {"id": new_id(), "entity": entity, "row": row, "op": "delete", "base": base}


def other_connection() -> "psycopg.Connection[tuple[Any, ...]]":
    """Another program on the same database, in a transaction until it commits."""
    settings = connection.settings_dict
    return psycopg.connect(
        dbname=settings["NAME"],
        user=settings["USER"] or None,
        password=settings["PASSWORD"] or None,
        host=settings["HOST"] or None,
        port=settings["PORT"] or None,
    )


def beside(work: Callable[["psycopg.Connection[Any]"], object]) -> threading.Thread:
    """Start the work in a transaction of its own, and return once it waits for a lock or has ended."""
    other = other_connection()

    def run() -> None:
        with other:
            work(other)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        if sql("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", [other.info.backend_pid]):
            break
    return thread


CONTACT = (
    "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note) "
    "VALUES (%s, %s, '', '', '', '', '')"
)


def sql(statement: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """Run raw SQL in Django's connection; its rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, list(parameters))
        return cursor.fetchall() if cursor.description else []


def history(row: str) -> list[tuple[Any, ...]]:
    """(rev, op, author, old, new) of each change of a row."""
    return sql(
        "SELECT rev, op, author, old::jsonb::text, new::jsonb::text FROM sync_history WHERE row_id = %s ORDER BY rev",
        [row],
    )


def feed(row: str) -> dict[str, tuple[int, bool]]:
    """By scope: (rev, whether the row is there) of a row."""
    return {
        s: (rev, there)
        for s, rev, there in sql("SELECT scope, rev, data IS NOT NULL FROM sync_feed WHERE row_id = %s", [row])
    }


def codes(result: dict[str, Any]) -> list[tuple[str | None, str]]:
    """The field and the code of each error of a result."""
    return [(told["field"], told["code"]) for told in result["errors"]]


def problem(answer: Any) -> tuple[int, str]:
    """The status and the code of an answer that is a problem."""
    return answer.status_code, answer.json()["code"]


def contact(name: str = "Ana") -> str:
    """A new contact's id."""
    return str(Contact.objects.create(first_name=name).pk)


def employee(number: int) -> str:
    """A new employee's id."""
    return str(Employee.objects.create(number=number, first_name="E", last_name="E").pk)


def new_customer(**values: Any) -> Customer:
    """A new customer, of COUNTRY unless another is given."""
    return Customer.objects.create(**{"name": "C", "country": COUNTRY} | values)


def order(of: str) -> Order:
    """A new order of an employee."""
    return Order.objects.create(customer=new_customer(), employee_id=of, ordered_on="2026-11-21")


def settled() -> str:
    """The id of a transaction, once nothing that began before it is open in any database of this PostgreSQL."""
    ((now,),) = sql("SELECT pg_current_xact_id()::text")
    while not sql("SELECT 1 WHERE pg_snapshot_xmin(pg_current_snapshot()) > %s::xid8", [now]):
        pass
    return str(now)


def tick_of_long_ago() -> None:
    """As `prune` leaves it."""
    settled()
    sql(
        "INSERT INTO sync_tick (at, horizon) "
        "VALUES (now() - interval '91 days', pg_snapshot_xmin(pg_current_snapshot()))"
    )
