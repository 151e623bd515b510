import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of torch on a busy machine wait for each other

import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Files of system tests that may take longest come first, so that two workers end together."""
    longest = {}
    for item in items:
        if item.get_closest_marker("system"):
            limit = item.get_closest_marker("timeout")
            longest[item.path] = max(longest.get(item.path, 0), limit.args[0] if limit else 0)
    items.sort(key=lambda item: -longest.get(item.path, 0))


@pytest.fixture
def rng():
    return np.random.default_rng(20231123)


@pytest.fixture(autouse=True)
def signals_as_they_were():
    """A signal left ignored is ignored by every process that later tests start."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before, "the test left a signal handled in another way"


@pytest.fixture(autouse=True)
def debug_callbacks(request, monkeypatch):
    """Let safe callbacks raise, so that a test sees what they would only log; fault tests do without."""
    if request.node.get_closest_marker("production_callbacks"):
        monkeypatch.delenv("BLUESKY_DEBUG_CALLBACKS", raising=False)
    else:
        monkeypatch.setenv("BLUESKY_DEBUG_CALLBACKS", "1")


@pytest.fixture(scope="session")
def real_data():
    """Folder of real data, read in place."""
    from pathlib import Path

    folder = os.environ.get("PTYCHONN_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PTYCHONN_DATA names no folder of real data")
    return Path(folder).resolve()  # some tests change the working directory
