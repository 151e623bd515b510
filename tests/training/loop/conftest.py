import pytest
from loop_world import Sample, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, Sample())
