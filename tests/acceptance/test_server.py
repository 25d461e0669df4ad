"""The server as `script/server` runs it: it is ready, enrols devices, and comes back after it was killed."""

from pathlib import Path

import httpx

from tests.acceptance.acceptance_support import Server, running_server


def test_server_is_alive_and_ready(server: Server) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{server.url}/readyz").json()["status"] == "ready"


def test_devices_enroll_with_their_scopes(server: Server) -> None:
    one, two = server.enroll_many([["global"], ["store:7"]])
    assert (one.scopes, two.scopes) == (["global"], ["store:7"])
    assert httpx.get(f"{server.url}/devices/me", headers=two.headers).json()["name"] == "device 2"


def test_static_files_are_served_without_debug(server: Server) -> None:
    for path, kind in {"admin/css/base.css": "text/css", "admin/js/theme.js": "text/javascript"}.items():
        answer = httpx.get(f"{server.url}/static/{path}")
        assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, kind)


def test_server_that_was_killed_comes_back_at_its_address(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        device = server.enroll()
        url = server.url
        server.kill()
        server.start()
        assert server.url == url
        assert httpx.get(f"{url}/devices/me", headers=device.headers).status_code == 200
