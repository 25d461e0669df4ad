"""Everything the SDK raises. Each message says what to do next."""


class SyncError(Exception):
    """Base of all. Nothing that the user entered is lost by any of them, except that a wipe deletes the file."""


class Unusable(SyncError):
    """What was given as the server's address cannot be one, or the file cannot be made or written. Give another."""


class NotReachable(SyncError):
    """No answer in the time allowed, or the server was too busy. Work goes on offline; call `sync()` again later.

    `retry_after`: seconds that the server asked to wait, where it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(SyncError):
    """Another process syncs this file, or an application's transaction holds it. Call again later."""


class NotEnrolled(SyncError):
    """The file is no replica yet: `Replica.enroll()` makes one."""


class EnrollmentRefused(SyncError):
    """The code is wrong, used or expired. Ask an administrator for a new one."""


class DeviceRevoked(SyncError):
    """An administrator revoked this device, or it was not used for too long.

    `wiped`: the local file was deleted, as the administrator asked; `reported`: and the server knows of it.
    """

    def __init__(self, message: str, wiped: bool, reported: bool = False) -> None:
        super().__init__(message)
        self.wiped = wiped
        self.reported = reported


class Refused(SyncError):
    """The server refuses the request, and would refuse it again. `status`: HTTP; `code`: the server's stable code."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"the server refused the request: {detail} ({status} {code})")
        self.status = status
        self.code = code


class TokenExpired(Refused):
    """The server no longer knows how far this device has read. `sync()` handles it: push, then load afresh.

    `restored`: its database is, or may be, another one than that which the token is of.
    """

    def __init__(self, status: int, code: str, detail: str, restored: bool) -> None:
        super().__init__(status, code, detail)
        self.restored = restored


class NotCurrent(Refused):
    """There is something to pull since the token of a check. The check handles it: pull, and ask again."""


class Damaged(SyncError):
    """The file itself is damaged. Sync what waits, then enroll with another file."""


class BatchTooLarge(Refused):
    """The pushed batch is over a limit of the server. `sync()` handles it: smaller batches."""


class ProtocolError(SyncError):
    """The server's answer is not of protocol version 1: check the URL, or upgrade the SDK or the server."""


class SchemaMoved(ProtocolError):
    """A page does not fit the replica's tables. `sync()` handles it: upgrade the tables, load afresh."""
