"""A small Singer tap that reads a table from a file, and misbehaves as its configuration says. Run as a program."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = {"properties": {name: {} for name in ("id", "name", "city", "at", "_sdc_deleted_at")}}


def say(kind: str, **rest: Any) -> None:
    print(json.dumps({"type": kind, **rest}), flush=True)


def discover(config: dict[str, Any]) -> None:
    streams = []
    for name in ("users", "other"):
        metadata = [{"breadcrumb": ["properties", each], "metadata": {}} for each in SCHEMA["properties"]]
        metadata.append({"breadcrumb": [], "metadata": {"replication-method": config.get("method", "INCREMENTAL")}})
        streams.append({"tap_stream_id": name, "stream": name, "schema": SCHEMA, "metadata": metadata})
    print(config.get("catalog") or json.dumps({"streams": streams}, indent=1))


def tell(config: dict[str, Any], state: dict[str, Any]) -> None:
    """The rows from the bookmark on, in order of `at`, with a STATE after so many of them."""
    say("SCHEMA", stream="users", schema=config.get("schema", SCHEMA), key_properties=["id"])
    rows = json.loads(Path(config["rows"]).read_text())
    version = {"version": config["version"]} if "version" in config else {}
    told = sorted((row for row in rows if row["at"] >= state.get("at", 0)), key=lambda row: row["at"])
    for count, row in enumerate(told, 1):
        say("RECORD", stream="users", record=row, **version)
        if config.get("state_every") and count % config["state_every"] == 0:
            say("STATE", value={"at": row["at"]})
        for what in config.get(f"after_{count}", []):
            misbehave(what)
    if version:
        say("ACTIVATE_VERSION", stream="users", **version)
    if config.get("state_every", 1) and told:
        say("STATE", value={"at": told[-1]["at"]})


def misbehave(what: dict[str, Any]) -> None:
    match what:
        case {"print": str(text)}:
            print(text, flush=True)
        case {"stderr": str(text)}:
            print(text, file=sys.stderr, flush=True)
        case {"exit": int(code)}:
            sys.exit(code)
        case {"killed": True}:
            os.kill(os.getpid(), signal.SIGKILL)
        case {"child": str(pid_file)}:  # which holds the tap's outputs open
            child = subprocess.Popen(["sleep", "600"])
            Path(pid_file).write_text(str(child.pid))
        case {"stubborn": True}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case {"silent": True}:
            time.sleep(600)
        case {"flood": int(size)}:
            sys.stdout.write("x" * size)
            sys.stdout.flush()
            time.sleep(600)


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("config", "catalog", "state"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--discover", action="store_true")
    given = parser.parse_args()
    config = json.loads(Path(given.config).read_text())
    state = json.loads(Path(given.state).read_text()) if given.state else {}
    if not given.discover and "log" in config:
        seen = {
            "pid": os.getpid(),
            "state": state,
            "config": given.config,
            "mode": oct(Path(given.config).stat().st_mode & 0o777),
            "catalog": json.loads(Path(given.catalog).read_text()),
            "environment": dict(os.environ),
        }
        with Path(config["log"]).open("a") as log:
            log.write(json.dumps(seen) + "\n")
    for what in config.get("first", []):
        misbehave(what)
    if given.discover:
        discover(config)
    else:
        tell(config, state)


if __name__ == "__main__":
    main()
