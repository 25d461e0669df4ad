"""One seed: devices, an office and a bad network for some hundred steps; then everything must agree."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import syncdevice.push
import syncdevice.stage
import syncdevice.transport
from syncdevice import Replica

from sync.models import Mismatch
from tests.simulation import office, oracle
from tests.simulation.accounts import Accounts
from tests.simulation.administrators import Administrators
from tests.simulation.decisions import check_decisions, check_outcomes
from tests.simulation.device import Device
from tests.simulation.edits import COUNTRIES, EDITS, INVALID_EDITS, Desk
from tests.simulation.faults import LIMITS, Faults, Network
from tests.simulation.rivalry import RIVAL_EDITS
from tests.simulation.world import World

DEVICES = 5
STATEMENTS_MAX = 120  # of a sync that is killed; a usual one has fewer
FAULTS_MAX = 4
EDITS_MAX = 4  # at once
HANG_SECONDS = 20.0  # no request takes that long, unless it waits for something for ever
QUIET_ROUNDS_MAX = 5
SKEW_HOURS = (0, 0, -9, 5, 24 * 400)  # of the clocks of devices
BATCHES = (8, 1_000)  # mutations of a batch; the largest group of these edits has fewer than 8


class Simulation:
    """`log` tells what happened, a line a step."""

    def __init__(self, world: World, seed: int, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.rng = Random(f"steps {seed}")
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()
        self.administrators = Administrators(world, Random(f"people {seed}"))
        self._serial = 0
        modules: tuple[Any, ...] = (syncdevice.transport, syncdevice.stage, syncdevice.push)
        modules[0].RETRY_FIRST_SECONDS = 0.0  # no pauses between tries
        modules[0].TIMEOUT = HANG_SECONDS
        self._stage, self._push = modules[1:]
        self.devices = [self._enroll(f"device {n}") for n in range(1, DEVICES + 1)]
        for device in self.devices:
            device.sync(self._faults(0), self.world.mailbox)

    # --- devices ---

    def _enroll(self, name: str) -> Device:
        employees = self.rng.sample(self.world.employee_ids, self.rng.randint(0, 2))
        countries = self.rng.sample(COUNTRIES, self.rng.randint(1, len(COUNTRIES)))
        scopes = {f"employee:{each}" for each in employees} | {f"country:{each}" for each in countries}
        return self._new_device(name, {"global", *scopes})

    def _new_device(self, name: str, scopes: set[str]) -> Device:
        self._serial += 1
        path = self.folder / f"{self._serial}.db"
        code = self.world.code(sorted(scopes))
        id = self._enrolled(code, path, name)
        skew = timedelta(hours=self.rng.choice(SKEW_HOURS))
        return Device(name, path, id, scopes, self.world.inner, skew)

    def _enrolled(self, code: str, path: Path, name: str) -> str:
        """The new device's id."""
        way = Network(self.world.inner, Faults(self.rng), [])
        id = Replica.enroll(self.world.url, code, path, name=name, http=way).status().device
        self.world.note_grants(id)
        return id

    def _enroll_anew(self, device: Device) -> str:
        """The same file becomes another device; its outbox stays, the old device is revoked."""
        self.world.revoke(device.id)
        code = self.world.code(sorted(device.scopes))
        device.id = self._enrolled(code, device.path, device.name)
        return f"{device.name} is enrolled anew"

    # --- steps ---

    def run(self, steps: int) -> None:
        """Raises AssertionError where something that must be true is not."""
        for number in range(steps):
            (step,) = self.rng.choices([step for step, _ in STEPS], [weight for _, weight in STEPS])
            self.counts[step.__name__] += 1
            self.log.append(f"{number}: {step.__name__}")
            what = step(self)
            self.log[-1] = f"{number}: {what}"
        self._end()

    def _any_device(self) -> Device:
        return self.rng.choice(self.devices)

    def _sync_settings(self) -> None:
        self._stage.SAVE_SECONDS = self.rng.choice((0.0, 2.0))
        self._push.BATCH_MUTATIONS_MAX = self.rng.choice(BATCHES)

    def _faults(self, budget: int | None, interfere: bool = False) -> Faults:
        rows = self.rng.choice(LIMITS)
        hook = self.world.interfere if interfere else None
        return Faults(Random(self.rng.getrandbits(64)), budget, rows, hook)

    def edit(self) -> str:
        device = self._any_device()
        return f"{device.name}: {', '.join(self._edit(device, self.rng.randint(1, EDITS_MAX)))}"

    def _edit(self, device: Device, count: int = 1) -> list[str]:
        with device.open() as conn:
            return ["no tables yet"] if conn is None else [self._edit_with(device, conn) for _ in range(count)]

    def _edit_with(self, device: Device, conn: sqlite3.Connection) -> str:
        invalid = self.rng.random() < 0.06
        if invalid:
            edit = self.rng.choice(INVALID_EDITS)
        else:
            edits, weights = zip(*EDITS, *RIVAL_EDITS, strict=True)
            (edit,) = self.rng.choices(edits, weights)
        employees = self._mostly_own(device, "employee", self.world.employee_ids)
        countries = self._mostly_own(device, "country", COUNTRIES)
        what = device.edit(Desk(conn, self.rng, employees, countries, self.world.reserved), edit, invalid)
        return what or f"{edit.__name__}: nothing to do"

    def _mostly_own(self, device: Device, name: str, everything: Sequence[str]) -> Sequence[str]:
        """The values of the device's scopes of this name; now and then those that are none of its own too."""
        own = [scope.removeprefix(f"{name}:") for scope in sorted(device.scopes) if scope.startswith(f"{name}:")]
        return everything if not own or self.rng.random() < 0.1 else own

    def sync(self) -> str:
        """One that goes through at last, with or without faults, other writers and edits in between."""
        device = self._any_device()
        self._sync_settings()
        faults = self._faults(self.rng.choice((0, 0, FAULTS_MAX)), interfere=self.rng.random() < 0.2)
        meanwhile = None
        edits: list[str] = []
        if self.rng.random() < 0.15:

            def meanwhile(_: object) -> None:
                if len(edits) < 2 and self.rng.random() < 0.5:
                    edits.extend(self._edit(device))

        device.sync(faults, self.world.mailbox, meanwhile)
        oracle.check_device(device, self.world)
        self.counts.update(faults.met)
        return f"{device.name} syncs by {faults.page_rows}, faults {faults.met}, meanwhile {edits}"

    def failing_sync(self) -> str:
        device = self._any_device()
        self._sync_settings()
        faults = self._faults(None)
        how = device.sync(faults, self.world.mailbox)
        oracle.check_pairs(device, self.world)
        self.counts.update(faults.met)
        return f"{device.name} syncs in vain: {faults.met}, {how}"

    def interrupted_sync(self) -> str:
        """The first requests go through, then nothing does."""
        device = self._any_device()
        self._sync_settings()
        faults = self._faults(0)
        left = self.rng.randint(1, 6)

        def cut() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                faults.budget = None

        faults.interfere = cut
        replica = device.replica(faults, self.world.mailbox)
        replica._retry_seconds = 0.0
        try:
            replica.sync()
            how = "finished"
        except syncdevice.NotReachable:
            how = "cut off"
        oracle.check_pairs(device, self.world)
        self.counts[how] += 1
        return f"{device.name} syncs, then the network is gone: {how}"

    def killed_sync(self) -> str:
        device = self._any_device()
        self._sync_settings()
        statement = self.rng.randint(1, STATEMENTS_MAX)
        how = device.sync_and_be_killed(self._faults(0), statement)
        assert not how.startswith("failed"), f"{device.name}: {how}"
        oracle.check_pairs(device, self.world)
        if how == "finished":
            oracle.check_device(device, self.world)
        self.counts[how] += 1
        return f"{device.name} syncs and is {how} at statement {statement}"

    def office(self) -> str:
        return office.write(self.world)

    def administrator(self) -> str:
        return self.administrators.work()

    def late(self) -> str:
        return self.world.begin_late()

    def grants(self) -> str:
        device = self._any_device()
        scope = self.rng.choice(
            (f"employee:{self.rng.choice(self.world.employee_ids)}", f"country:{self.rng.choice(COUNTRIES)}")
        )
        if self.rng.random() < (0.05 if "global" in device.scopes else 0.5):
            scope = "global"
        self.world.change_grant(device.id, scope, scope in device.scopes)
        device.scopes ^= {scope}
        return f"{device.name} {'gets' if scope in device.scopes else 'loses'} {scope}"

    def deliver(self) -> str:
        return self.world.deliver()

    def prune(self) -> str:
        return self.world.prune()

    def epoch(self) -> str:
        what = self.world.change_epoch()
        device = self._any_device()
        device.sync(self._faults(0), self.world.mailbox)
        oracle.check_device(device, self.world)
        return f"{what}, noticed by {device.name}"

    def enroll_anew(self) -> str:
        return self._enroll_anew(self._any_device())

    # --- the end ---

    def _end(self) -> None:
        self.log.append("end: everything that is open ends, all devices sync until nothing moves")
        self.world.end_late(commit=True)
        self.world.deliver()
        # A device gets back what it may have lost, so that all that waits can be pushed.
        for _ in range(QUIET_ROUNDS_MAX):
            for device in self.devices:
                device.sync(self._faults(0), self.world.mailbox)
            rows = oracle.server_rows()
            if not any(self._waits(device) for device in self.devices):
                break
        for device in self.devices:
            device.sync(self._faults(0), self.world.mailbox)
        rows = oracle.server_rows()
        for device in self.devices:
            oracle.check_device(device, self.world, rows)
            device.check(self._faults(0), self.world.mailbox)
        for scopes in sorted({tuple(sorted(device.scopes)) for device in self.devices})[:2]:
            fresh = self._new_device("a fresh device", set(scopes))
            fresh.sync(self._faults(0), self.world.mailbox)
            oracle.check_device(fresh, self.world, rows)
        oracle.check_history(self.world)
        assert not Mismatch.objects.exists(), "a device found a mismatch where none was planted"
        accounts = Accounts(self.devices, self.world)
        self.counts.update(accounts.check(self.administrators.replays))
        check_decisions(accounts)
        check_outcomes(self.devices, self.administrators, self.world.url)
        self.counts.update(self.administrators.counts)

    def _waits(self, device: Device) -> bool:
        with closing(sqlite3.connect(device.path)) as conn:
            return bool(conn.execute("SELECT 1 FROM _sync_outbox").fetchone())


def digest(log: list[str]) -> str:
    """What two runs of one seed have in common."""
    return hashlib.sha256("\n".join(log).encode()).hexdigest()[:12]


Step = Callable[[Simulation], str]
STEPS: tuple[tuple[Step, float], ...] = (
    (Simulation.edit, 42),
    (Simulation.sync, 17),
    (Simulation.failing_sync, 4),
    (Simulation.interrupted_sync, 4),
    (Simulation.killed_sync, 4),
    (Simulation.office, 18),
    (Simulation.administrator, 9),
    (Simulation.late, 3),
    (Simulation.grants, 5),
    (Simulation.deliver, 2),
    (Simulation.prune, 1),
    (Simulation.epoch, 0.5),
    (Simulation.enroll_anew, 0.5),
)
