"""`--seeds`, `--first-seed`, `--steps` choose what is simulated: `script/test tests/simulation --first-seed 7`."""

from collections.abc import Iterator

import pytest

from tests.acceptance.acceptance_support import Server, running_server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, count = metafunc.config.getoption("--first-seed"), metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", range(first, first + count))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all seeds; each begins by emptying its database."""
    with running_server(tmp_path_factory.mktemp("simulation"), LOG_LEVEL="WARNING") as server:
        yield server
