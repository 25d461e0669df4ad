"""The project's settings, plus one path that does nothing: what the server under test runs with."""

from syncserver.settings import *  # noqa: F403

ROOT_URLCONF = "bench.urls"

# One device stands for many here.
SYNC_DEVICE_REQUESTS_PER_HOUR_MAX = SYNC_DEVICE_REQUESTS_PER_DAY_MAX = 0
SYNC_DEVICE_CHANGES_PER_HOUR_MAX = SYNC_DEVICE_CHANGES_PER_DAY_MAX = 0
