"""The project's settings, plus one path that does nothing: what the server under test runs with."""

from syncserver.settings import *  # noqa: F403

ROOT_URLCONF = "bench.urls"
