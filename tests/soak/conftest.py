"""A simulated beamline for long torture; the helpers of the system tests drive it."""

import sys
from pathlib import Path

import pytest

from bluesky_ptychonn.cli.services import Services

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
collect_ignore = ["bits_session.py"]
"""It imports what only an environment of its own has."""


@pytest.fixture(scope="session")
def stamped(tmp_path_factory):
    """Scans on a beamline of their own, with an edge that shows which trigger each patch came from."""
    from stamped import StampedScans

    from bluesky_ptychonn.cli.session import open_session

    with Services(tmp_path_factory.mktemp("soak"), catalog=False, edge=False, seed=5) as services:
        session = open_session(services.settings, progress=False)
        scans = StampedScans(services, session)
        try:
            yield scans
        finally:
            scans.close()
            session.close()
