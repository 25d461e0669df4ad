"""Take the pictures of the documents: `python -m tests.acceptance.pictures docs/images`, on a machine with Chromium."""

import json
import sys
import tempfile
from pathlib import Path

from tests.acceptance.acceptance_support import Server, running_server
from tests.acceptance.browser_support import launched, logged_in, opened

WIDTH = 1360
# How high each is: as much of the page as there is to see.
HEIGHTS = {
    "quarantine": 900,
    "refused-change": 1130,
    "row-history": 960,
    "restore-version": 760,
    "device": 640,
    "devices": 560,
}
_BUILD = "import json; from tests.acceptance.quarantine_scene import build; print(json.dumps(build()))"


def take(server: Server, folder: Path) -> None:
    """Write the scene into the server's database, and a picture of each page into the folder."""
    person = server.superuser("anna", "a long pass phrase")
    addresses: dict[str, str] = json.loads(server.manage("shell", "--no-imports", "-c", _BUILD).splitlines()[-1])
    with launched() as browser:
        session = logged_in(browser, server, *person)
        for name, address in addresses.items():
            size = {"width": WIDTH, "height": HEIGHTS[name]}
            with opened(browser, server, session, viewport=size, color_scheme="light") as page:
                page.goto(address)
                page.evaluate("document.fonts.ready")
                page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, running_server(Path(place)) as running:
        take(running, Path(sys.argv[1]))
