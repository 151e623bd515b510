import threading

import numpy as np

from bluesky_ptychonn.edge.ring import FrameRing


def test_what_is_full_says_so_and_nothing_is_overwritten():
    ring = FrameRing(3, (2, 2), np.dtype(np.uint16))
    assert [ring.push(np.full((2, 2), k), k, k, 0.0) for k in range(4)] == [True, True, True, False]
    frames, sequences, _, _ = ring.peek(8, 0)
    assert frames[:, 0, 0].tolist() == sequences.tolist() == [0, 1, 2]


def test_the_last_short_batch_leaves():
    ring = FrameRing(16, (1, 1), np.dtype(np.uint16))
    ring.push(np.ones((1, 1)), 0, 0, 0.0)
    assert len(ring.peek(8, 0.01)[0]) == 1


def test_every_frame_comes_out_once_and_in_order_between_two_threads():
    ring, count = FrameRing(16, (2, 2), np.dtype(np.uint16)), 5000
    shed = []

    def push():
        shed.extend(k for k in range(count) if not ring.push(np.full((2, 2), k), k, 2 * k, float(k)))

    thread = threading.Thread(target=push)
    thread.start()
    out = []
    while thread.is_alive() or len(ring):
        frames, sequences, indices, arrivals_s = ring.peek(8, 0.01)
        np.testing.assert_array_equal(frames[:, 1, 1], sequences)
        np.testing.assert_array_equal(indices, 2 * sequences)
        np.testing.assert_array_equal(arrivals_s, sequences)
        out += sequences.tolist()
        ring.release(len(sequences))
    assert sorted(out + shed) == list(range(count))
    assert out == sorted(out)
