import numpy as np

from bluesky_ptychonn.core.pairing import UNPAIRED, Pairing
from bluesky_ptychonn.core.placement import Placement


def test_it_says_what_the_pairing_says(rng):
    """Any losses in the detector and behind it: the few numbers of a placement hold all indices."""
    for _ in range(20):
        frames, first = 200, int(rng.integers(0, 5))
        pairing = Pairing(frames, first_unique_id=first, clock="detector", dwell_s=0.01)
        unique_id, ids, indices, shifts = first, [], [], [(first, 0)]
        for trigger in range(frames):
            fate = rng.choice(["ok", "detector", "plugin"], p=[0.8, 0.1, 0.1]) if trigger else "ok"
            if fate == "ok":
                ids.append(unique_id)
                indices.append(pairing.add(unique_id, trigger * 0.01, 0.0))
                shift = indices[-1] - (unique_id - first)
                if shift != shifts[-1][1]:
                    shifts.append((unique_id, shift))
            unique_id += fate != "detector"
        placement = Placement(first, frames, *np.array(shifts[1:], np.int64).reshape(-1, 2).T)
        np.testing.assert_array_equal(placement.indices(np.array(ids)), indices)


def test_what_is_withheld_or_of_no_trigger_has_no_index():
    placement = Placement(5, 10, np.array([8]), np.array([3]), withheld_from_id=11)
    assert placement.indices(np.array([4, 5, 8, 10, 11, 14])).tolist() == [UNPAIRED, 0, 6, 8, UNPAIRED, UNPAIRED]
    assert Placement(5, 10, np.array([8]), np.array([3])).indices(np.array([12])).tolist() == [UNPAIRED]
    assert placement == Placement(5, 10, np.array([8]), np.array([3]), 11) != Placement(5, 10)
