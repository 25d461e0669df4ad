"""`manage.py revoke`: take scopes back from a device, or from all devices of a user."""

from devices.grants import revoke_scopes
from devices.management.granting import GrantingCommand


class Command(GrantingCommand):
    help = (
        "Take scopes back from a device, or from a user and thereby from all devices of that user. Rows that no other "
        "scope holds leave the devices with their next pull. To refuse a device altogether, see manage.py device."
    )
    examples = """\
examples:
  manage.py revoke store:7 --device "Tablet 12"   the rows of store 7 leave Tablet 12, unless its user has store:7
  manage.py revoke store:7 store:8 --user ana     and all devices of ana, unless a device has one of its own
"""
    done, not_needed, takes = "Revoked", "was not granted", True
    change = revoke_scopes
