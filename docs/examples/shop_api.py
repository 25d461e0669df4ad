"""A shop's JSON API, to try docs/connect-a-rest-api.md on before your own: customers of Northwind in a SQLite file.

.venv/bin/python docs/examples/shop_api.py [port]
curl -H "Authorization: Bearer open-sesame" http://127.0.0.1:8100/customers/1
"""

import csv
import datetime as dt
import hashlib
import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

CSV = Path(__file__).resolve().parents[2] / "data" / "northwind" / "customers.csv"
TOKEN = "open-sesame"
PAGE_RECORDS_MAX = 50
FIRST_DAY = dt.datetime(2026, 1, 5, 9, tzinfo=dt.UTC)
COUNTRIES = dict(
    pair.split("=")
    for pair in (
        "Argentina=AR,Austria=AT,Belgium=BE,Brazil=BR,Canada=CA,Denmark=DK,Finland=FI,France=FR,Germany=DE,Ireland=IE,"
        "Italy=IT,Mexico=MX,Norway=NO,Poland=PL,Portugal=PT,Spain=ES,Sweden=SE,Switzerland=CH,UK=GB,USA=US,Venezuela=VE"
    ).split(",")
)
TABLE = "CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT, updated_at TEXT NOT NULL, record TEXT NOT NULL)"


def stamp(at):
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def northwind():
    """The customers as the shop has them, in the order in which they were entered."""
    with CSV.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            entered = FIRST_DAY + dt.timedelta(seconds=61 * number)
            country = COUNTRIES.get(row["Country"])  # two have none
            yield {
                "number": row["CustomerID"],
                "name": row["CompanyName"],
                "address": {"street": row["Address"], "city": row["City"], "country": country},
                "phone": row["Phone"],
                "vat_number": country and f"{country}{100_000 + 37 * number}",
                "contact": {
                    "name": row["ContactName"],
                    "since": f"{entered - dt.timedelta(days=40 * number):%d.%m.%Y}",
                },
                "external_id": None,
                "archived": number % 30 == 29,
                "created_at": stamp(entered),
                "updated_at": stamp(entered),
            }


class Shop:
    def __init__(self, file):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        if not self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'customer'").fetchone():
            self.db.execute(TABLE)
            for record in northwind():
                self.put(None, record)

    def put(self, key, record):
        values = record["updated_at"], json.dumps(record)
        if key:
            self.db.execute("UPDATE customer SET updated_at = ?, record = ? WHERE id = ?", (*values, key))
            return key
        return self.db.execute("INSERT INTO customer (updated_at, record) VALUES (?, ?)", values).lastrowid

    def get(self, key):
        found = self.db.execute("SELECT id, record FROM customer WHERE id = ?", (key,)).fetchone()
        return found and {"id": found[0], **json.loads(found[1])}

    def list(self, query):
        size = min(int(query.get("per_page", PAGE_RECORDS_MAX)), PAGE_RECORDS_MAX)
        at = (int(query.get("page", 1)) - 1) * size
        rows = self.db.execute(
            "SELECT id, record FROM customer WHERE updated_at >= ? ORDER BY id", (query.get("updated_since", ""),)
        )
        found = [{"id": key, **json.loads(record)} for key, record in rows]
        found = [each for each in found if not each["archived"] or query.get("archived") == "include"]
        if "external_id" in query:
            found = [each for each in found if each["external_id"] == query["external_id"]]
        return {"data": found[at : at + size], "has_more": len(found) > at + size}

    def edit(self, key, changes):
        """Make or change a customer; objects in it are merged. Raises ValueError for what the shop does not take."""
        now = stamp(dt.datetime.now(dt.UTC))
        record = self.get(key) if key else {"address": {}, "contact": {}, "archived": False, "created_at": now}
        for name, value in changes.items():
            record[name] = {**record[name], **value} if isinstance(record.get(name), dict) and value else value
        if not record.get("name"):
            raise ValueError("a customer needs a name")
        if len(record.get("phone") or "") > 24:
            raise ValueError("phone: at most 24 characters")
        record["updated_at"] = now
        record.pop("id", None)
        key = self.put(key, record)
        if not record.get("number"):
            self.put(key, {**record, "number": f"NEW{key}"})
        return self.get(key)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer leaves in one piece

    def answer(self):
        with self.server.shop.lock:
            status, body = self.decide()
        content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if isinstance(body, dict) and "id" in body:
            self.send_header("ETag", etag(body))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def decide(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        _, kind, *rest = url.path.split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "who are you?"}
        if url.path == "/me":
            return 200, {"login": "syncserver@shop.example"}
        if kind != "customers" or len(rest) > 1:
            return 404, {"error": "there is no such page"}
        return self.customers(self.server.shop, rest[0] if rest else None, dict(parse_qsl(url.query)), sent)

    def customers(self, shop, key, query, sent):
        known = shop.get(key) if key else None
        if key and known is None:
            return 404, {"error": "there is no such customer"}
        if known and self.headers.get("If-Match") not in (None, etag(known)):
            return 412, {"error": "somebody changed it since"}
        try:
            match self.command:
                case "GET":
                    return 200, known or shop.list(query)
                case "DELETE":
                    shop.db.execute("DELETE FROM customer WHERE id = ?", (key,))
                    return 204, None
                case _:
                    return 200 if key else 201, shop.edit(key, json.loads(sent))
        except ValueError as error:
            return 422, {"error": str(error)}

    def log_message(self, *_):
        """It keeps quiet: the terminal is the reader's."""


def etag(record):
    return f'"{hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]}"'


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8100), Handler)
    server.shop = Shop("shop.db")
    server.serve_forever()
