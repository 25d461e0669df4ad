"""Device SDK of Syncserver: the application writes plain SQL to its own SQLite file, and `sync()` does the rest."""

__version__ = "0.1.0"

from syncdevice.errors import (
    Busy,
    Damaged,
    DeviceRevoked,
    EnrollmentRefused,
    NotEnrolled,
    NotReachable,
    ProtocolError,
    Refused,
    SyncError,
    Unusable,
)
from syncdevice.outcomes import Outcome
from syncdevice.replica import Replica, group
from syncdevice.reports import Change, CheckReport, Difference, Progress, Status, SyncReport

__all__ = [
    "Busy",
    "Change",
    "CheckReport",
    "Damaged",
    "DeviceRevoked",
    "Difference",
    "EnrollmentRefused",
    "NotEnrolled",
    "NotReachable",
    "Outcome",
    "Progress",
    "ProtocolError",
    "Refused",
    "Replica",
    "Status",
    "SyncError",
    "SyncReport",
    "Unusable",
    "group",
]
