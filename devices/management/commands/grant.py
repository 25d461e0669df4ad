"""`manage.py grant`: give scopes to a device, or to all devices of a user."""

from devices.grants import grant_all
from devices.management.granting import GrantingCommand


class Command(GrantingCommand):
    help = "Grant scopes to a device, or to a user and thereby to all devices of that user. All of them, or none."
    examples = """\
examples:
  manage.py grant store:7 --device "Tablet 12"        Tablet 12 gets the rows of store 7 with its next pulls
  manage.py grant global store:7 store:8 --user ana   so do all devices of ana, those too that she enrols later
"""
    done, not_needed = "Granted", "was granted already"
    change = grant_all
