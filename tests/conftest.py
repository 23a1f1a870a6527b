"""Options of the test run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is printed now into tests/golden; refused when CI is set",
    )


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is left in, or read from, the folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def refuse_in_ci() -> None:
    if os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused where CI is set: look at the diff first")


def pytest_configure(config: pytest.Config) -> None:
    # A channel rule that fails is a fault to be seen here, in child processes too.
    os.environ["CONET_GRAPH_RAISE"] = "1"
    # A run started in the background inherits ignored signals; tests of interruption need the usual ones.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not config.getoption("--update-golden") or hasattr(config, "workerinput"):
        return
    refuse_in_ci()
    import golden_text

    for path in sorted(golden_text.FOLDER.glob("*.txt")):
        golden_text.update(path)
