"""Show the whole path on real data: the ERP that was there first, this server, and two devices that work offline.

Tryton (a real ERP) is started with the order book of the Northwind company, the server takes it over, two salespeople's
devices load their part, go offline, edit, and sync; then the ERP goes down and comes back. Everything runs on this
machine, in the folder of the checkout. Takes two minutes the first time, and twenty seconds from then on.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import psycopg  # noqa: E402
from syncdevice import Replica  # noqa: E402

from legacy.connectors.tryton_rpc import Session  # noqa: E402
from syncserver import environment, postgres  # noqa: E402

ERP_PORT = 18000
STEP_SECONDS_MAX = 600
CUSTOMER = "ALFKI"


class Demo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures = 0
        self.server: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_urlsafe(9)
        self.port = free_port(int(os.environ.get("PORT", "8000")))
        self.erp_port = free_port(ERP_PORT)
        self.env = os.environ | {
            "LEGACY_URL": f"http://127.0.0.1:{self.erp_port}",
            "LEGACY_DATABASE": "northwind",
            "LEGACY_USER": "admin",
            "LEGACY_PASSWORD": "northwind",
            "PORT": str(self.port),
            "LOG_LEVEL": "WARNING",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- what each step is made of ---

    def step(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def expect(self, holds: bool, text: str) -> None:
        """Print a finding, and count it where it is not what was promised."""
        self.failures += not holds
        print(f"  {'ok  ' if holds else 'FAIL'}  {text}", flush=True)

    def manage(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        command = [sys.executable, "manage.py", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=STEP_SECONDS_MAX
        )
        if ended.returncode not in codes:
            raise SystemExit(
                f"manage.py {' '.join(arguments)} failed ({ended.returncode}):\n{ended.stdout}{ended.stderr}"
            )
        return ended.stdout

    def erp(self, *arguments: str) -> None:
        command = [str(ROOT / "script" / "erp"), *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.env, text=True, stdout=subprocess.PIPE, timeout=STEP_SECONDS_MAX
        )
        for line in ended.stdout.splitlines():
            self.say(line)
        if ended.returncode:
            raise SystemExit("The ERP could not be started or stopped.")

    def sync_legacy(self, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.manage("sync_legacy", "--json", codes=codes).splitlines()[-1])
        return result

    def enroll(self, name: str, scopes: list[str]) -> Replica:
        options = [word for scope in scopes for word in ("--scope", scope)]
        code = json.loads(self.manage("enrollment_code", *options, "--json"))["code"]
        return Replica.enroll(self.url, code, self.folder / f"{name}.db", name=name, platform="demo")

    # --- the story ---

    def start(self) -> None:
        self.step("1. The ERP that was there first: Tryton, with Northwind's order book")
        self.erp("reset")
        self.erp("start", "--port", str(self.erp_port))

        self.step("2. The server, with a database of its own")
        self.env["DATABASE_URL"] = fresh_database()
        self.manage("migrate", "--verbosity", "0")
        self.manage("shell", "-c", MAKE_ADMIN.format(password=self.password))
        self.server = subprocess.Popen([str(ROOT / "script" / "server")], cwd=ROOT, env=self.env)
        wait_until_ready(self.url, self.server)
        self.say(f"It serves at {self.url} and is ready.")

        self.step("3. sync_legacy takes over what the ERP has")
        self.report(self.sync_legacy())
        again = self.sync_legacy()
        changed = sum(n for counts in again["counts"].values() for kind, n in counts.items() if kind != "unchanged")
        self.expect(changed == 0, "run again, it changes nothing")

    def report(self, run: dict[str, Any]) -> None:
        for mapping, counts in run["counts"].items():
            told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
            self.say(f"{mapping:>9}: {told or 'nothing to do'}")

    def work(self) -> None:
        self.step("4. Two salespeople enrol their devices and load their part of the data")
        employees = psycopg.connect(self.env["DATABASE_URL"]).execute(
            "SELECT number, id::text, first_name FROM entities_employee WHERE number IN (1, 4) ORDER BY number"
        )
        (_, nancy, _), (_, margaret, _) = employees.fetchall()
        self.phone = self.enroll("Nancy's phone", self.scopes_of(nancy))
        self.tablet = self.enroll("Margaret's tablet", self.scopes_of(margaret))
        for device in (self.phone, self.tablet):
            device.sync()
            rows = device.status().rows
            self.say(f"{device.status().name}: " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))
        mine = count(self.phone, 'SELECT count(*) FROM "order" WHERE employee_id <> ?', nancy)
        self.expect(
            mine == 0 and self.phone.status().rows["order"] > 0, "Nancy's phone has her orders and nobody else's"
        )
        lost = count(self.phone, 'SELECT count(*) FROM "order" WHERE customer_id NOT IN (SELECT id FROM customer)')
        north = [count(each, IN_NORWAY) for each in (self.phone, self.tablet)]
        self.expect(lost == 0, "and the customer of each of them")
        self.expect(north == [1, 0], "a customer in Norway is on hers, and not on Margaret's, who sells nothing there")

        self.step("5. Both go offline and work: plain SQL on their own SQLite file")
        self.order = self.take_order(nancy)
        self.say("Nancy's phone: a new order for Alfreds Futterkiste with three lines, as one group")
        self.edit_phone(self.tablet, "030-1111111")
        self.say("Margaret's tablet: Alfreds Futterkiste's phone number is now 030-1111111")
        self.edit_phone(self.phone, "030-2222222")
        self.say("Nancy's phone: the same customer's phone number is now 030-2222222")
        waiting = self.phone.status().pending, self.tablet.status().pending
        self.expect(waiting == (5, 1), f"{waiting[0]} and {waiting[1]} edits wait in the devices' outboxes")

        self.step("6. They are back online: Margaret first, then Nancy")
        first, second = self.tablet.sync(), self.phone.sync()
        self.expect(first.pushed == 1 and not first.outcomes, "Margaret's edit was applied")
        self.expect(
            second.outcomes == {"conflict": 1}, "Nancy's order was applied; her edit of the customer met Margaret's"
        )
        outcome = self.phone.outcomes("conflict")[-1]
        kept = outcome.server_row["phone"] if outcome.server_row else None
        self.say(
            f"A person decides about phone numbers: until then {kept} stays, Nancy's phone keeps {outcome.entered},"
        )
        self.say(f"and both wait for an administrator: {self.url}/admin/sync/conflict/{outcome.conflict}/change/")
        self.decide(outcome.conflict)
        self.tablet.sync()
        self.phone.sync()
        both = {phone_of(self.phone), phone_of(self.tablet)}
        self.expect(both == {"030-2222222"}, "the administrator took Nancy's number; both devices show it")
        (told,) = self.phone.conflicts()
        self.say(f"Nancy's phone can tell her: {told.describe()}")
        seen = count(self.tablet, 'SELECT count(*) FROM "order" WHERE id = ?', self.order)
        self.expect(seen == 0, "Nancy's order did not reach Margaret's tablet: it is not in her scopes")

    def scopes_of(self, employee: str) -> list[str]:
        """What is for everybody, the employee's own rows, and the customers of the countries that they sell to."""
        with psycopg.connect(self.env["DATABASE_URL"]) as conn:
            countries = [country for (country,) in conn.execute(COUNTRIES, [employee])]
        return ["global", f"employee:{employee}", *(f"country:{country}" for country in countries)]

    def decide(self, conflict: str | None) -> None:
        """Take the device's side, as the button of the page does."""
        token = self.manage("drf_create_token", "admin").split()[2]
        with httpx.Client(base_url=f"{self.url}/api/", headers={"Authorization": f"Token {token}"}) as api:
            body = {"ids": [conflict], "side": "device", "comment": "Nancy called them."}
            api.post("conflicts/resolve", json=body).raise_for_status()

    def take_order(self, employee: str) -> str:
        conn = self.phone.connect()
        with self.phone.group(conn):
            (customer,) = conn.execute("SELECT id FROM customer WHERE code = ?", (CUSTOMER,)).fetchone()
            products = conn.execute("SELECT id, unit_price FROM product WHERE NOT discontinued ORDER BY name LIMIT 3")
            order: str = conn.execute(
                'INSERT INTO "order" (customer_id, employee_id, status, ordered_on, note) '
                "VALUES (?, ?, 'confirmed', '2026-11-21', 'taken offline') RETURNING id",
                (customer, employee),
            ).fetchone()[0]
            for number, (product, price) in enumerate(products.fetchall(), 1):
                conn.execute(
                    "INSERT INTO order_line (order_id, product_id, unit_price, quantity, discount) "
                    "VALUES (?, ?, ?, ?, '0')",
                    (order, product, price, number),
                )
        conn.close()
        return order

    def edit_phone(self, device: Replica, phone: str) -> None:
        conn = device.connect()
        conn.execute("UPDATE customer SET phone = ? WHERE code = ?", (phone, CUSTOMER))
        conn.commit()
        conn.close()

    def outage(self) -> None:
        self.step("7. The ERP goes down; devices and server go on")
        self.erp("stop")
        code = subprocess.run(
            [sys.executable, "manage.py", "sync_legacy", "--json"], cwd=ROOT, env=self.env, capture_output=True
        ).returncode
        self.expect(code == 2, "sync_legacy says so with exit code 2, and changes nothing")
        conn = self.tablet.connect()
        conn.execute("INSERT INTO contact (first_name, last_name, note) VALUES ('Ana', 'Trujillo', 'met at the fair')")
        conn.commit()
        conn.close()
        self.tablet.sync()
        self.phone.sync()
        met = count(self.phone, "SELECT count(*) FROM contact WHERE note = 'met at the fair'")
        self.expect(met == 1, "a contact that Margaret entered meanwhile is on Nancy's phone")

        self.step("8. The ERP is back: what was done meanwhile goes there")
        self.erp("start", "--port", str(self.erp_port))
        self.report(self.sync_legacy())
        tryton = Session(self.env["LEGACY_URL"], "northwind", "admin", "northwind")
        tryton.open()
        sales = tryton.call(
            "sale.sale", "search_read", [["comment", "=", "taken offline"]], 0, None, None,
            ["number", "party.rec_name", "lines.product.rec_name", "lines.quantity"],
        )  # fmt: skip
        self.expect(
            len(sales) == 1 and len(sales[0]["lines."]) == 3, "the new order is in the ERP, with its three lines:"
        )
        for line in sales[0]["lines."] if sales else ():
            self.say(f"        {line['quantity']:.0f} x {line['product.']['rec_name']}")
        parties = tryton.call(
            "party.party", "search_read", [["code", "=", CUSTOMER]], 0, None, None, ["contact_mechanisms.value"]
        )
        values = [mechanism["value"] for mechanism in parties[0]["contact_mechanisms."]]
        self.expect("030-2222222" in values, "and the customer's new phone number too")
        tryton.close()
        self.sync_legacy()
        self.phone.sync()
        number = self.phone_order_number()
        self.expect(bool(number), f"the ERP's number for the order, {number or '(none)'}, is on Nancy's phone")
        again = self.sync_legacy()
        sent = sum(counts.get(kind, 0) for counts in again["counts"].values() for kind in SENT)
        self.expect(sent == 0, "nothing echoes: the next run has nothing to send and nothing to take")

    def phone_order_number(self) -> str | None:
        conn = self.phone.connect()
        try:
            row = conn.execute('SELECT number FROM "order" WHERE id = ?', (self.order,)).fetchone()
            return row[0] if row else None
        finally:
            conn.close()

    def stop(self) -> None:
        if self.server and self.server.poll() is None:
            self.server.terminate()
            try:
                self.server.wait(20)
            except subprocess.TimeoutExpired:
                self.server.kill()
        subprocess.run([str(ROOT / "script" / "erp"), "stop"], cwd=ROOT, env=self.env, stdout=subprocess.DEVNULL)


COUNTRIES = """
SELECT DISTINCT country FROM entities_customer
WHERE country <> '' AND id IN (SELECT customer_id FROM entities_order WHERE employee_id = %s)
ORDER BY country
"""
IN_NORWAY = "SELECT count(*) FROM customer WHERE country = 'Norway'"
SENT = ("created", "updated", "created there", "updated there", "failed")
MAKE_ADMIN = """
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser("admin", "", "{password}")
"""


def count(device: Replica, sql: str, *parameters: str) -> int:
    conn = device.connect()
    try:
        return int(conn.execute(sql, parameters).fetchone()[0])
    finally:
        conn.close()


def phone_of(device: Replica) -> str:
    conn = device.connect()
    try:
        return str(conn.execute("SELECT phone FROM customer WHERE code = ?", (CUSTOMER,)).fetchone()[0])
    finally:
        conn.close()


def free_port(wanted: int) -> int:
    """`wanted` where it is free, else any other."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("No port is free.")


def fresh_database() -> str:
    """A new, empty database of the demo in the embedded PostgreSQL of this checkout: its address."""
    address = postgres.start(environment.DATA_DIR / "postgres")
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS syncserver_demo WITH (FORCE)")
        conn.execute("CREATE DATABASE syncserver_demo")
    return address.replace("/postgres?", "/syncserver_demo?")


def wait_until_ready(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"The server ended with code {server.returncode}.")
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("The server did not become ready in two minutes.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--once", action="store_true", help="stop everything at the end; exit code 0 if all is as promised"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="syncserver-demo-"))
    demo = Demo(folder)
    try:
        demo.start()
        demo.work()
        demo.outage()
        demo.step("All is as promised." if not demo.failures else f"{demo.failures} expectation(s) did not hold.")
        if not options.once:
            demo.step("It stays up; Ctrl-C stops it.")
            demo.say(f"admin     {demo.url}/admin/   (admin / {demo.password})")
            demo.say(f"API docs  {demo.url}/docs/")
            demo.say(f"ERP       {demo.env['LEGACY_URL']}   (admin / northwind)")
            demo.say(f"devices   {folder}   (.venv/bin/syncdevice shell FILE)")
            assert demo.server
            demo.server.wait()
    except KeyboardInterrupt:
        print()
    finally:
        demo.stop()
        if options.once:
            shutil.rmtree(folder)
    sys.exit(1 if demo.failures else 0)


if __name__ == "__main__":
    main()
