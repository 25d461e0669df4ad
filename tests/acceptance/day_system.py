"""The systems module of a deployment that lets customers be deleted on either side: for the day in the life."""

from dataclasses import replace

from legacy.mappings.tryton import CONTACT, CUSTOMER, EMPLOYEE, ORDER, PRODUCT, connect
from legacy.systems import System

MAPPINGS = (
    EMPLOYEE,
    replace(CUSTOMER, deletes="both", sweep_hours=0),
    replace(CONTACT, deletes="pull", sweep_hours=0),
    PRODUCT,
    ORDER,
)
SYSTEMS = (System("tryton", connect, MAPPINGS),)
