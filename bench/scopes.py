"""`scopes`: pulls of a device with many scopes, and rows that follow their order to another employee.

An idle pull with 200 scopes beside one with a single scope, on the same server with the same load; a move of an order
with 1,000 lines beside a plain update of as many rows that are captured. 2,000 scopes and 1,000,000 rows in all.
"""

import secrets
import time
from statistics import median

import psycopg

from bench.idle import current
from bench.load import Target, rate
from bench.report import Demand, Outcome
from bench.server import HOST, Server

SCOPES = 2_000
ROWS = 1_000_000
LINES = 1_000  # of the order that moves
HELD = 200
CLIENTS = 16
ROUNDS = 7
ROUND_SECONDS = 1.5
MOVES = 15

FILL = """
INSERT INTO entities_employee (id, number, first_name, last_name, title, phone, extension, notes)
SELECT md5('employee ' || n)::uuid, n, 'E', n::text, '', '', '', '' FROM generate_series(1, %(scopes)s) n;
INSERT INTO entities_customer (id, code, name, address, city, region, postal_code, country, phone, fax)
SELECT md5('customer')::uuid, 'BENCH', 'C', '', '', '', '', 'UK', '', '';
INSERT INTO entities_product (id, code, name, category, quantity_per_unit, unit_price, units_in_stock, reorder_level,
                              discontinued)
SELECT md5('product')::uuid, 'BENCH', 'P', '', '', 1, 0, 0, false;
INSERT INTO entities_order (id, number, customer_id, employee_id, status, ordered_on, freight, ship_name, ship_address,
                            ship_city, ship_region, ship_postal_code, ship_country, note)
SELECT md5('order ' || n)::uuid, '', md5('customer')::uuid, md5('employee ' || n)::uuid, 'draft', date '2026-11-21',
       0, '', '', '', '', '', '', '' FROM generate_series(1, %(scopes)s) n;
"""
FILL_LINES = """
INSERT INTO entities_orderline (id, order_id, product_id, unit_price, quantity, discount)
SELECT md5('line ' || n)::uuid,
       md5('order ' || CASE WHEN n <= %(lines)s THEN 1 ELSE n %% (%(scopes)s - 1) + 2 END)::uuid,
       md5('product')::uuid, 1, 1, 0 FROM generate_series(%(start)s + 1, %(start)s + %(rows)s) n;
"""
MOVE = "UPDATE entities_order SET employee_id = md5('employee ' || {to})::uuid WHERE id = md5('order 1')::uuid"
PLAIN = """
UPDATE entities_orderline SET quantity = quantity + 1
WHERE id IN (SELECT md5('line ' || n)::uuid FROM generate_series(1001, 2001) n)
"""
TABLES = "entities_orderline, entities_order, entities_customer, entities_product, entities_employee"
BATCH = 100_000  # rows of a statement


def run(server: Server) -> Outcome:
    with server.connect() as connection:
        _fill(connection)
        server.settle()
        moves, plain = _moves(connection)
    many, one = _rates(server)
    return Outcome(
        "scopes",
        f"{many:,.0f} idle pulls/s with {HELD} scopes; an order with {LINES:,} lines moves in {moves * 1000:,.0f} ms",
        f"{one:,.0f} idle pulls/s with one; {plain * 1000:,.0f} ms for an update of {LINES + 1:,} rows",
        {
            "pulls_per_s_many": many,
            "pulls_per_s_one": one,
            "idle_cost": one / many,
            "move_ms": moves * 1000,
            "plain_ms": plain * 1000,
            "move_cost": moves / plain,
        },
        [Demand("idle_cost", at_most=1.5), Demand("move_cost", at_most=1.5)],
    )


def _fill(connection: psycopg.Connection) -> None:
    connection.execute(f"TRUNCATE {TABLES} CASCADE")
    written = psycopg.ClientCursor(connection)
    written.execute(FILL, {"scopes": SCOPES})
    for start in range(0, ROWS, BATCH):
        written.execute(FILL_LINES, {"scopes": SCOPES, "lines": LINES, "start": start, "rows": BATCH})


def _moves(connection: psycopg.Connection) -> tuple[float, float]:
    """Seconds of a move and of a plain update: the medians of rounds that take turns."""
    moves, plain = [], []
    for at in range(MOVES + 1):
        began = time.perf_counter()
        connection.execute(MOVE.format(to=at % 2 + 1))
        between = time.perf_counter()
        connection.execute(PLAIN)
        ended = time.perf_counter()
        if at:  # the first is a warm-up of both
            moves.append(between - began)
            plain.append(ended - between)
    return median(moves), median(plain)


def _rates(server: Server) -> tuple[float, float]:
    """Idle pulls a second of devices with many scopes and with one: the medians of rounds that take turns."""
    kinds = [
        [(target, target.request("GET", f"/sync/pull?token={current(target)}")) for target in _devices(server, count)]
        for count in (HELD, 1)
    ]
    with server.connect() as connection:  # something has been written since: else nobody would have to look
        connection.execute("UPDATE entities_product SET reorder_level = reorder_level + 1")
    found: list[list[float]] = [[], []]
    for at in range(ROUNDS + 1):
        for place, requests in enumerate(kinds):
            value = rate(requests, ROUND_SECONDS)
            if at:
                found[place].append(value)
    return median(found[0]), median(found[1])


def _devices(server: Server, scopes: int) -> list[Target]:
    """New devices, each with so many of the scopes."""
    from devices.authentication import token_hash
    from devices.models import Device, Grant

    targets = []
    with server.connect() as connection:
        names = connection.execute("SELECT DISTINCT scope FROM sync_feed WHERE entity = 'order' ORDER BY 1").fetchall()
    for at in range(CLIENTS):
        secret = secrets.token_urlsafe(16)
        device = Device.objects.create(name=f"bench {at}", token_hash=token_hash(secret))
        mine = [names[(at * 97 + n * 7) % len(names)][0] for n in range(scopes)]
        Grant.objects.bulk_create([Grant(device=device, scope=scope) for scope in mine])
        targets.append(Target(HOST, server.port, secret))
    return targets
