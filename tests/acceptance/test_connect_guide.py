"""docs/connect-a-rest-api.md, done as it says: the code word for word, and every output that it shows."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.acceptance.acceptance_support import fresh_database
from tests.acceptance.document_support import blocks, copy_of_the_project
from tests.acceptance.terminal_support import do, essence, replaced, steps

SECONDS_MAX = 600  # it starts Python some sixty times
PORT = "8100"


@pytest.mark.slow
def test_guide_prints_what_it_shows(tmp_path: Path) -> None:
    copy_of_the_project(tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    wanted = steps(blocks("connect-a-rest-api.md"))
    served = [step._replace(commands=on_port(step.commands, port)) for step in wanted]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEGACY_", "SYNC_", "DJANGO_"))}
    with fresh_database() as database_url:
        done = do(served, tmp_path, kept | {"DATABASE_URL": database_url}, SECONDS_MAX)
    assert len(done) == len(wanted)
    for step, (printed, seconds) in zip(wanted, done, strict=True):
        print(f"\n$ {step.commands}{printed}({seconds:.1f} s)")
    for step, (printed, _) in zip(wanted, done, strict=True):
        assert essence(printed.replace(port, PORT)) == essence(step.shown), step.commands


def on_port(commands: str, port: str) -> str:
    return commands.replace(PORT, port).replace("shop_api.py &", f"shop_api.py {port} &")


def test_part_of_a_module_takes_the_place_of_what_has_its_name() -> None:
    module = "import os\nfrom a import b\n\nONE = 1\n\n\ndef work():\n    pass\n\n\nALL = (ONE,)\n"
    part = "from a import b, c\nfrom d import e\n\nTWO = 2\nALL = (\n    ONE,\n    TWO,\n)\n"
    assert replaced(module, part).split("\n") == [
        "import os", "from d import e", "from a import b, c", "", "ONE = 1", "", "",
        "def work():", "    pass", "", "",
        "TWO = 2", "", "ALL = (", "    ONE,", "    TWO,", ")", "",
    ]  # fmt: skip


def test_outputs_are_the_same_whatever_ids_times_and_widths_they_have() -> None:
    one = "run 01f3c692-c7c5-43ee-ad48-51156bdd5c38\n┏━━━┓\n┃   ┃ unchanged ┃ new ┃\n│ a │ 3 │ long cell │\n└─┘\n"
    two = "run 39e6829a-b611-4608-b355-a3f558ab6d14\n┏━━━┓\n┃   ┃ new ┃\n│ a │ long │\n│   │ cell │\n└─┘\n"
    assert essence(one) == essence(two) == ["run <id>", " | new", "a | longcell"]
    assert essence(two) != essence(two.replace("cell", "sell"))
