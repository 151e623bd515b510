"""One simulated beamline, one Tiled and one edge for all system tests of the whole chain."""

import pytest

from bluesky_ptychonn.cli.services import Services


@pytest.fixture(scope="session")
def services(tmp_path_factory):
    with Services(tmp_path_factory.mktemp("beamline"), sample="letters", seed=3) as running:
        yield running


@pytest.fixture(scope="session")
def session(services):
    from bluesky_ptychonn.cli.session import open_session

    opened = open_session(services.settings, progress=False, need_catalog=True, catalog_timeout_s=60)
    yield opened
    opened.close()
