"""What the process that all runs of a fleet are forked from loads, once: the program, and no connection to anything."""

import django

django.setup()

import legacy.fleet_process  # noqa: E402, F401 - its models need what was just set up
from syncserver import collector  # noqa: E402

collector.settle()
