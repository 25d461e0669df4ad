"""The program of a Singer tap: started with files that only we may read, listened to, and ended for certain."""

import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from legacy.connector import Misconfigured, Unreachable

SILENCE_SECONDS = 300  # without a word on either of its outputs: then it is stuck
END_SECONDS = 5  # to end when asked to, before it is made to
MESSAGE_BYTES_MAX = 16_000_000  # of one line
STDERR_LINES = 20  # kept for the text of an error, and
STDERR_LINE_CHARACTERS_MAX = 500  # of each
CHUNK_BYTES = 65_536
# What it gets of our environment, which holds secrets of ours.
ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
)
SECRET = re.compile(r"pass|secret|token|key|credential|auth|dsn|url", re.IGNORECASE)
# A tap has one exit code for all that goes wrong; these words in its last lines say that its system is away.
AWAY = re.compile(
    r"refused|timed? ?out|unreachable|reset by peer|temporar|could not translate host|name or service not known"
    r"|name resolution|is the server running|\b(429|502|503|504)\b",
    re.IGNORECASE,
)


class Tap:
    """One run of the program. `files`: what it gets as `--<option> <file>`. Raises Misconfigured if it cannot start."""

    def __init__(
        self,
        command: Sequence[str],
        files: Mapping[str, Any],
        *flags: str,
        environment: Mapping[str, str],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.name = Path(command[0]).name
        self._secrets = _secrets(files["config"])
        self._silence_seconds = silence_seconds
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._spoke = False
        self._folder = TemporaryDirectory(prefix="tap-")  # of mode 0700
        arguments = [word for option in files for word in (f"--{option}", self._write(option, files[option]))]
        given = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [*command, *arguments, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**given, **environment},
                start_new_session=True,  # a process group of its own, so that what it starts can be ended with it
            )
        except OSError as error:
            self._folder.cleanup()
            raise Misconfigured(
                f"The tap {command[0]} cannot be started ({error.strerror}): install it in a virtual environment of "
                "its own, and give the path of its program."
            ) from None

    def lines(self) -> Iterator[bytes]:
        """What it prints, line by line, read only as fast as it is asked for.

        Raises Unreachable or Misconfigured where it ends badly, says nothing for too long, or never ends a line.
        """
        try:
            rest = b""
            for chunk in self._chunks():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
                if len(rest) > MESSAGE_BYTES_MAX:
                    raise Misconfigured(f"The tap {self.name} prints a line of more than {MESSAGE_BYTES_MAX} bytes.")
            if rest:
                yield rest
            self._check_end()
        finally:
            self.close()

    def close(self) -> None:
        """End it and all that it started."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            self._wait(END_SECONDS)
            self._signal(signal.SIGKILL)  # while it is not reaped, the number of its group is nobody else's
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        self._folder.cleanup()

    def masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _chunks(self) -> Iterator[bytes]:
        assert self._process.stdout is not None and self._process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.register(self._process.stderr, selectors.EVENT_READ)
            heard = time.monotonic()
            while selector.get_map():
                ready = selector.select(timeout=min(1, self._silence_seconds))
                if not ready and self._ended():  # something that it started holds its outputs open
                    return
                if not ready and time.monotonic() - heard > self._silence_seconds:
                    raise Unreachable(
                        f"The tap {self.name} said nothing for {self._silence_seconds:g} s and was ended."
                        f" Its last words: {self._last_words()}"
                    )
                for key, _ in ready:
                    chunk = os.read(key.fd, CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self._process.stderr:
                        self._note(chunk)
                    else:
                        if not self._spoke:  # so it has read its files: no secret lies about while it works
                            self._folder.cleanup()
                        self._spoke = True
                        yield chunk
                if ready:
                    heard = time.monotonic()

    def _note(self, chunk: bytes) -> None:
        begun = self._stderr.pop() if self._stderr else ""
        for line in (begun + chunk.decode(errors="replace")).split("\n"):
            self._stderr.append(line[:STDERR_LINE_CHARACTERS_MAX])

    def _last_words(self) -> str:
        return self.masked("\n".join(line for line in self._stderr if line.strip())) or "none"

    def _check_end(self) -> None:
        if not self._wait(self._silence_seconds):
            raise Unreachable(f"The tap {self.name} closed its output, did not end, and was ended.")
        self._signal(signal.SIGKILL)  # what it started and left behind
        code = self._process.wait()
        if code == 0:
            return
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = f"The tap {self.name} {how}. Its last words: {self._last_words()}"
        # It has one exit code for everything. Once it has told something, its configuration was right.
        raise (Unreachable if code < 0 or self._spoke or AWAY.search(text) else Misconfigured)(text)

    def _ended(self) -> bool:
        return bool(os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def _wait(self, seconds: float) -> bool:
        """Until it ended, without reaping it; whether it did."""
        until = time.monotonic() + seconds
        while not (ended := self._ended()) and time.monotonic() < until:
            time.sleep(0.01)
        return ended

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # the latter on macOS, where all of the group has ended
            os.killpg(self._process.pid, number)

    def _write(self, option: str, content: Any) -> str:
        path = Path(self._folder.name, f"{option}.json")
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(content, file)
        return str(path)


def _secrets(config: Any, name: str = "") -> list[str]:
    """What must not be shown, longest first: the values under names that sound like it, and passwords in addresses."""
    found: set[str] = set()
    match config:
        case dict():
            for key, value in config.items():
                found.update(_secrets(value, f"{name} {key}"))
        case list():
            for value in config:
                found.update(_secrets(value, name))
        case str() if config and SECRET.search(name):
            found.add(config)
    if isinstance(config, str) and "@" in config and (password := urlsplit(config).password):
        found |= {password, unquote(password)}
    return sorted(found | {quote(secret, safe="") for secret in found}, key=len, reverse=True)
