"""The same morning at the Northwind company: what was refused, and a tablet that is stuck, for pages to show.

`build()` writes it beside the conflicts of `conflict_scene`. What is refused is refused by a real push.
"""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from devices.models import Device, Grant
from sync.models import Rejection
from sync.push import push
from sync.states import Pusher
from tests.acceptance.conflict_scene import Scene


def build(now: datetime | None = None) -> dict[str, str]:
    """Write the scene, as it would be at `now`; the addresses of the pages that pictures show."""
    scene = Scene(now or datetime.now(UTC))
    scene.build()
    return _Refused(scene).build()


class _Refused:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def build(self) -> dict[str, str]:
        self._daily_work()
        mended = self._mistyped()
        self._unknown_customer()
        self._mistyped_many()
        self._not_for_devices()
        self._stand()
        tablet = self.scene.devices["Tablet 3"].pk
        maria = self.scene.contacts["ALFKI"].pk
        return {
            "quarantine": "/admin/sync/rejection/",
            "refused-change": f"/admin/sync/rejection/{mended.pk}/change/",
            "row-history": f"/admin/entities/contact/{maria}/history/",
            "restore-version": f"/admin/entities/contact/{maria}/history/2/restore/",
            "device": f"/admin/devices/device/{tablet}/change/",
            "devices": "/admin/devices/device/",
        }

    # --- what was refused ---

    def _mistyped(self) -> Rejection:
        maria = self.scene.contacts["ALFKI"]
        values = {
            "email": "maria.anders@alfreds",
            "title": "Head of Sales",
            "note": "Ring at the side entrance. She is back on Friday.",
            "met_on": "2026-11-20",
        }
        return self._refused("Nancy's phone", timedelta(minutes=40), ("contact", maria.pk, "update", values))

    def _unknown_customer(self) -> None:
        order, product = str(uuid.uuid4()), str(self.scene.products[0].pk)
        line = {"order_id": order, "product_id": product, "unit_price": "18.0000", "quantity": 6}
        values = {"customer_id": str(uuid.uuid4()), "ordered_on": "2026-11-20", "ship_name": "Alfreds Futterkiste"}
        employee = {"employee_id": str(self.scene.employee.pk)}
        Grant.objects.create(device=self.scene.devices["Van 2"], scope=f"employee:{self.scene.employee.pk}")
        self._refused(
            "Van 2",
            timedelta(hours=3),
            ("order", order, "create", values | employee),
            *(("order_line", uuid.uuid4(), "create", line) for _ in range(2)),
        )

    def _mistyped_many(self) -> None:
        names = ["Thomas Hardy", "Christina Berglund", "Hanna Moos", "Frédérique Citeaux", "Martín Sommer"]
        for number, name in enumerate(names):
            first, last = name.split()
            values = {"first_name": first, "last_name": last, "email": f"{first.lower()} at northwind"}
            self._refused("Tablet 3", timedelta(hours=20 + 7 * number), ("contact", uuid.uuid4(), "create", values))

    def _not_for_devices(self) -> None:
        chai = self.scene.products[1].pk
        prices = {"unit_price": "20.0000", "quantity_per_unit": "24 x 12 oz bottles"}
        self._refused("Tablet 7", timedelta(hours=26), ("product", chai, "update", prices))
        order = {"customer_id": str(self.scene.customers["ALFKI"].pk), "ordered_on": "2026-11-19"}
        self._refused("Tablet 3", timedelta(hours=30), ("order", uuid.uuid4(), "create", order))

    # --- how it is written ---

    def _daily_work(self) -> None:
        """New contacts of each day, more on some days than on others."""
        for day in range(29, 0, -1):
            for number in range(self.scene.random.choice([0, 2, 3, 5, 8])):
                values = {"first_name": "Visitor", "last_name": f"{day}-{number}"}
                at = timedelta(days=day, minutes=17 * number)
                self._push("Tablet 3", at, [("contact", uuid.uuid4(), "create", values)])

    def _stand(self) -> None:
        """Tablet 3 calls, and does not get rid of its outbox; Tablet 7 was not seen for long."""
        now = self.scene.now
        stuck, silent = self.scene.devices["Tablet 3"].pk, self.scene.devices["Tablet 7"].pk
        Device.objects.update(client="syncdevice/0.1.0", pending=0)
        Device.objects.filter(pk=stuck).update(
            last_seen_at=now - timedelta(minutes=6), pending=14, oldest_pending_at=now - timedelta(days=3, hours=4)
        )
        Device.objects.filter(pk=silent).update(last_seen_at=now - timedelta(days=12), pending=1)

    def _refused(self, name: str, before: timedelta, *changes: Any) -> Rejection:
        ids = self._push(name, before, changes)
        Rejection.objects.filter(mutation__in=ids).update(created_at=self.scene.now - before)
        return Rejection.objects.get(mutation=ids[0])

    def _push(self, name: str, before: timedelta, changes: Any) -> list[str]:
        """Push each of (entity, row, op, values) as if it were that time before now; the mutations' ids."""
        device, made = self.scene.devices[name], (self.scene.now - before - timedelta(minutes=9)).isoformat()
        device = Device.objects.get(pk=device.pk)
        mutations = [
            {"id": str(uuid.uuid4()), "entity": entity, "row": str(row), "op": op, "set": values, "made_at": made}
            | ({"base": 1} if op == "update" else {})
            for entity, row, op, values in changes
        ]
        push(Pusher(device.pk, device.scopes), json.dumps({"mutations": mutations}).encode())
        ids = [str(mutation["id"]) for mutation in mutations]
        at: dict[str, Any] = {"at": self.scene.now - before, "ids": ids}
        with connection.cursor() as cursor:
            cursor.execute("UPDATE sync_result SET at = %(at)s WHERE id = ANY (%(ids)s::uuid[])", at)
            cursor.execute("UPDATE sync_history SET at = %(at)s WHERE mutation = ANY (%(ids)s::uuid[])", at)
        return ids
