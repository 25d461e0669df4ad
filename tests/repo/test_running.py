"""docs/running.md: every command in it, in crontabs and units, is one that its program takes."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
from cronsim import CronSim
from django.core.management import load_command_class
from django.utils import timezone

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "running.md").read_text()
COMMANDS = sorted(set(re.findall(r"manage\.py ([a-z_]+[^>\n`|;]*)", PAGE)))
CRON_LINES = re.findall(r"^(\S+ +\S+ +\S+ +\S+ +\S+) +cd ", PAGE, re.M)
UNITS = re.findall(r"```ini\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_taken_with_its_options(line: str) -> None:
    name, *options = shlex.split(line)
    app = "legacy" if name in {"sync_legacy", "legacy_webhooks", "legacy_prune", "worker"} else "sync"
    load_command_class(app, name).create_parser("manage.py", name).parse_args(options)


def test_crontab_can_be_read() -> None:
    assert len(CRON_LINES) == 6
    for line in CRON_LINES:
        CronSim(line, timezone.now())


def test_units_can_be_read_and_start_what_there_is() -> None:
    assert len(UNITS) == 3
    for text in UNITS:
        unit = configparser.ConfigParser(strict=True, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(text)
        assert unit.has_section("Unit")
        if unit.has_section("Service"):
            assert unit["Service"]["ExecStart"].startswith(
                unit["Service"]["WorkingDirectory"] + "/.venv/bin/python manage.py "
            )
