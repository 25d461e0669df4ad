"""The demo, as a new user runs it: it ends with 0 only if every expectation on the way held."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 600


@pytest.mark.slow
def test_demo_once_ends_with_0_and_the_readme_shows_its_steps() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "SYNC_", "DJANGO_"))}
    ended = subprocess.run(
        ["script/demo", "--once"],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "All is as promised." in ended.stdout
    steps = re.findall(r"^\d\. .*$", ended.stdout, re.M)
    assert steps == re.findall(r"^\d\. .*$", (ROOT / "README.md").read_text(), re.M)
