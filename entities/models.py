"""The rows that sync: the folder that a deployment edits. These are the tables of a small trading company."""

import uuid
from collections.abc import Mapping
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from sync.declare import ASK, Ask, scope, synced

NOTE_LENGTH_MAX = 10_000  # characters


class Row(models.Model):
    """A synced row is named by a UUID, so that a device can make one while it is offline."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    class Meta:
        abstract = True


@synced(scopes=[scope("employee", "id"), scope("employee", "reports_to_id")], writable=False)
class Employee(Row):
    """On their own devices, and on those of the one they report to."""

    number = models.PositiveIntegerField(unique=True)
    first_name = models.CharField(max_length=40)
    last_name = models.CharField(max_length=40)
    title = models.CharField(max_length=60, blank=True, default="")
    phone = models.CharField(max_length=40, blank=True, default="")
    extension = models.CharField(max_length=10, blank=True, default="")
    hired_on = models.DateField(null=True, blank=True)
    notes = models.TextField(blank=True, default="")
    reports_to = models.ForeignKey("self", models.SET_NULL, null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.first_name} {self.last_name}"


@synced(
    scopes=[scope("country", "country")],
    read_only=["code"],
    conflict_fields={"phone": "manual", "fax": "device_wins"},
    units=[("address", "city", "region", "postal_code", "country")],
)
class Customer(Row):
    # The customer's number in the pre-existing system; a customer that was made on a device has none yet.
    code = models.CharField(max_length=20, unique=True, null=True, blank=True)
    name = models.CharField(max_length=120)
    address = models.CharField(max_length=120, blank=True, default="")
    city = models.CharField(max_length=60, blank=True, default="")
    region = models.CharField(max_length=60, blank=True, default="")
    postal_code = models.CharField(max_length=20, blank=True, default="")
    country = models.CharField(max_length=60, blank=True, default="")
    phone = models.CharField(max_length=40, blank=True, default="")
    fax = models.CharField(max_length=40, blank=True, default="")

    def __str__(self) -> str:
        return self.name


def keep_both(
    _base: Mapping[str, Any] | None, server: Mapping[str, Any], device: Mapping[str, Any]
) -> Mapping[str, Any] | Ask:
    """Of two notes both stay, the server's first, unless one has the other in it or both are too long together."""
    kept = {}
    for name, theirs in server.items():
        ours = device[name]
        longer, shorter = sorted((theirs, ours), key=len, reverse=True)
        kept[name] = longer if shorter in longer else f"{theirs}\n{ours}"
        if len(kept[name]) > NOTE_LENGTH_MAX:
            return ASK
    return kept


@synced(conflict="manual", conflict_fields={"note": keep_both})
class Contact(Row):
    customer = models.ForeignKey(Customer, models.CASCADE, null=True, blank=True)
    first_name = models.CharField(max_length=60)
    last_name = models.CharField(max_length=60, blank=True, default="")
    title = models.CharField(max_length=60, blank=True, default="")
    email = models.EmailField(blank=True, default="")
    phone = models.CharField(max_length=40, blank=True, default="")
    note = models.TextField(max_length=NOTE_LENGTH_MAX, blank=True, default="")
    met_on = models.DateField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.first_name} {self.last_name}".strip()


@synced(
    counters=["units_in_stock"],
    read_only=["code", "unit_price"],
    hidden=["unit_cost"],
    conflict_fields={"discontinued": "manual"},
    delete_conflict="delete_wins",
)
class Product(Row):
    code = models.CharField(max_length=20, unique=True)
    name = models.CharField(max_length=120)
    category = models.CharField(max_length=60, blank=True, default="")
    quantity_per_unit = models.CharField(max_length=60, blank=True, default="")
    unit_price = models.DecimalField(max_digits=12, decimal_places=4, default=0, validators=[MinValueValidator(0)])
    unit_cost = models.DecimalField(max_digits=12, decimal_places=4, null=True, blank=True)
    units_in_stock = models.IntegerField(default=0)
    reorder_level = models.PositiveIntegerField(default=0)
    discontinued = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name


@synced(
    scopes=[scope("employee", "employee_id")],
    read_only=["number"],
    conflict_fields={"note": "latest_wins"},
    units=[("ship_name", "ship_address", "ship_city", "ship_region", "ship_postal_code", "ship_country")],
)
class Order(Row):
    class Status(models.TextChoices):
        DRAFT = "draft"
        CONFIRMED = "confirmed"
        SHIPPED = "shipped"
        CANCELLED = "cancelled"

    # The pre-existing system's number; empty until the order has arrived there.
    number = models.CharField(max_length=20, blank=True, default="")
    customer = models.ForeignKey(Customer, models.PROTECT)
    employee = models.ForeignKey(Employee, models.PROTECT, null=True, blank=True)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.DRAFT)
    ordered_on = models.DateField()
    required_on = models.DateField(null=True, blank=True)
    shipped_on = models.DateField(null=True, blank=True)
    freight = models.DecimalField(max_digits=12, decimal_places=4, default=0, validators=[MinValueValidator(0)])
    ship_name = models.CharField(max_length=120, blank=True, default="")
    ship_address = models.CharField(max_length=120, blank=True, default="")
    ship_city = models.CharField(max_length=60, blank=True, default="")
    ship_region = models.CharField(max_length=60, blank=True, default="")
    ship_postal_code = models.CharField(max_length=20, blank=True, default="")
    ship_country = models.CharField(max_length=60, blank=True, default="")
    note = models.TextField(max_length=NOTE_LENGTH_MAX, blank=True, default="")

    def __str__(self) -> str:
        return self.number or f"order of {self.ordered_on}"


@synced(scopes=[scope("employee", "order__employee_id")], conflict="device_wins", delete_conflict="manual")
class OrderLine(Row):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT)
    unit_price = models.DecimalField(max_digits=12, decimal_places=4, validators=[MinValueValidator(0)])
    quantity = models.IntegerField(default=1, validators=[MinValueValidator(1)])
    discount = models.DecimalField(
        max_digits=5, decimal_places=4, default=0, validators=[MinValueValidator(0), MaxValueValidator(1)]
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(quantity__gte=1), name="order_line_quantity_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"
