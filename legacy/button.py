"""What an administrator's buttons start: a worker's job, or commands in processes of their own, as cron starts them."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from django.conf import settings

from legacy import ask
from sync.operations import worker_is_there

START_SECONDS = 15  # that a command may take beside what it waits for: it has to load the program


def sync_now(systems: Sequence[str]) -> None:
    """Begin a run of each system and return at once: by a worker where one is alive, else by a process of its own.

    That process is bound to nobody, and outlives the web server.
    """
    if worker_is_there():
        for system in systems:
            ask.ask(system, "button")
        return
    process = subprocess.Popen(
        [*_command(), "sync_legacy", "--trigger", "button", "--system", *systems],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie when it has ended


def test(systems: Sequence[str]) -> dict[str, tuple[bool, str]]:
    """Sign in to each system, all at the same time: whether it went well, and what it said."""
    until = time.monotonic() + settings.LEGACY_TEST_SECONDS_MAX + START_SECONDS
    started = {
        name: subprocess.Popen(
            [*_command(), "sync_legacy", "--test", "--system", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in systems
    }
    return {name: _told(process, until) for name, process in started.items()}


def _told(process: "subprocess.Popen[str]", until: float) -> tuple[bool, str]:
    with process:
        try:
            out, err = process.communicate(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return False, f"It did not answer within {settings.LEGACY_TEST_SECONDS_MAX} seconds."
    words = (out if process.returncode == 0 else err).strip()
    # The last line is ours; what came before it, if anything did, is a log.
    return process.returncode == 0, words.splitlines()[-1].removeprefix(
        "CommandError: "
    ) if words else "It said nothing."


def _command() -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py")]
