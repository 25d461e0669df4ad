"""Options of the whole suite: pytest takes them from here only."""

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # how long a case takes says nothing there
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=200, help="how many seeds to simulate (200)")
    group.addoption("--first-seed", type=int, default=1, help="the first of them (1)")
    group.addoption("--steps", type=int, default=220, help="steps of each (220)")
