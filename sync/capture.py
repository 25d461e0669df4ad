"""Who changes rows, and with which mutation: told to the capture triggers in settings of the transaction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.db import connection, transaction

from sync.sql import array, block, cursor


@contextmanager
def authored(author: str, mutations: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within a transaction, record `author` in the history of every row that is changed inside the block.

    `author` is `device:<id>`, `user:<name>`, `run:<system>:<id>`, `migrate` or `verify`. `mutations` maps the ids of
    rows to the mutations that change them. Raises TransactionManagementError outside a transaction, where it could not
    hold.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("authored() needs transaction.atomic() around it")
    set_author(author, mutations)
    try:
        yield
    finally:
        if not connection.needs_rollback:
            set_author("")


def set_author(author: str, mutations: Mapping[str, str] | None = None) -> None:
    """The same for the rest of the transaction, or until it is set again."""
    known = mutations or {}
    parameters = {
        "author": author,
        "rows": array(known) if known else "",
        "mutations": array(known.values()) if known else "",
    }
    with cursor() as bound:
        bound.execute(block("capture.sql", "author"), parameters)
