"""Buffers on a real CUDA device, where there is one."""

import numpy as np
import pytest

from bluesky_ptychonn.core.protocols import EngineUnavailable
from bluesky_ptychonn.engines.cuda_buffers import open_cuda


@pytest.fixture(scope="module")
def cuda():
    try:
        return open_cuda()
    except (ImportError, EngineUnavailable) as error:
        pytest.skip(str(error))


def test_what_goes_there_comes_back_also_from_a_graph(cuda):
    here, back = cuda.pinned((8, 128, 128)), cuda.pinned((8, 128, 128))
    there, stream = cuda.memory(here.shape), cuda.stream()

    def around():
        cuda.to_device(there, here, stream)
        cuda.to_host(back, there, stream)

    rng = np.random.default_rng(1)
    for work in (around, cuda.recorded(around, stream)):
        here[:] = rng.random(here.shape)
        back[:] = -1
        work()
        cuda.synchronise(stream)
        np.testing.assert_array_equal(back, here)
