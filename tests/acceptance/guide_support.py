"""The commands of a guide, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path

from tests.acceptance.acceptance_support import ROOT


def commands(name: str, page: str = "webhooks.md") -> str:
    """The shell block that `<!-- test: name -->` stands above."""
    found = re.search(rf"<!-- test: {name} -->\n```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert found, f"docs/{page} has no block {name}"
    return found[1]


def run_guide(name: str, folder: Path, **variables: str) -> str:
    """What the block prints, run by a shell with these variables. Raises CalledProcessError."""
    ended = subprocess.run(
        ["bash", "-eu", "-c", commands(name)], cwd=folder, env=os.environ | variables, capture_output=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.decode()
