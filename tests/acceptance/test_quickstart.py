"""The quickstart's commands, run as they stand, in a fresh copy of the project."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.document_support import blocks, copy_of_the_project

SECONDS_MAX = 300
WAIT = """
until [ -x .venv/bin/python ]; do sleep 0.2; done
.venv/bin/python - <<'READY'
import time, urllib.request
for _ in range(600):
    try:
        raise SystemExit(urllib.request.urlopen("http://127.0.0.1:8000/readyz").status != 200)
    except OSError:
        time.sleep(0.2)
raise SystemExit("the server did not become ready")
READY
"""
AROUND = """
set -eu
trap 'kill $(jobs -p) 2> /dev/null || true; .venv/bin/python -m syncserver.postgres stop' EXIT
{commands}
"""


@pytest.mark.slow
def test_quickstart_ends_with_the_row_on_the_other_device(tmp_path: Path) -> None:
    copy_of_the_project(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server, *others = [block.text for block in blocks("quickstart.md")]
    commands = "\n".join([server, WAIT, *others]).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "SYNC_", "DJANGO_"))}
    ended = subprocess.run(
        ["bash", "-c", AROUND.format(commands=commands)],
        cwd=tmp_path,
        env=env | {"PORT": str(port), "LOG_LEVEL": "WARNING", "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "[('Ana', 'ana@example.org')]" in ended.stdout
