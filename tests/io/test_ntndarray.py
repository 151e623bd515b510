import numpy as np
import pytest

from bluesky_ptychonn.io.ntndarray import frame_counts, frame_identity, make_image, read_image

pvaccess = pytest.importorskip("pvaccess")


def detector_update(frame, field="ushortValue"):
    update = pvaccess.NtNdArray()
    update["uniqueId"] = 41
    update["value"] = {field: frame.ravel()}
    update["timeStamp"] = {"secondsPastEpoch": 100, "nanoseconds": 250_000_000, "userTag": 0}
    update["dataTimeStamp"] = {"secondsPastEpoch": 7, "nanoseconds": 500_000_000, "userTag": 0}
    return update


def test_rows_and_columns_survive_the_wire(rng):
    """NTNDArray counts the width first."""
    image = rng.normal(size=(3, 5)).astype(np.float32)
    image[0, 0] = np.nan
    made = make_image(image, {"run_uid": "abc", "pixel_size_um": 0.5, "frames_stitched": 3}, unique_id=2)
    assert [entry["size"] for entry in made["dimension"]] == [5, 3]
    read, attributes = read_image(made.toDict())
    np.testing.assert_array_equal(read, image)
    assert attributes == {"run_uid": "abc", "pixel_size_um": 0.5, "frames_stitched": 3.0}


def test_an_image_channel_before_its_first_image_is_empty():
    image, attributes = read_image(pvaccess.NtNdArray().toDict())
    assert image.shape == (0, 0)
    assert attributes == {}


@pytest.mark.parametrize(("clock", "time_s"), [("ioc", 100.25), ("detector", 7.5)])
def test_identity_of_a_frame(clock, time_s):
    assert frame_identity(detector_update(np.zeros((2, 3), np.uint16)), clock) == (41, time_s)


@pytest.mark.parametrize(("field", "dtype"), [("ushortValue", np.uint16), ("uintValue", np.uint32)])
def test_counts_are_a_view_in_rows_and_columns(field, dtype):
    frame = np.arange(6, dtype=dtype).reshape(2, 3)
    counts = frame_counts(detector_update(frame, field), (2, 3))
    np.testing.assert_array_equal(counts, frame)
    assert counts.dtype == dtype
    assert not counts.flags.owndata


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda: detector_update(np.zeros((2, 4), np.uint16)), "8 px where 2 x 3 px were announced"),
        (lambda: detector_update(np.zeros((2, 3), np.uint8), "ubyteValue"), "not compressed"),
        (pvaccess.NtNdArray, "type nothing"),
    ],
)
def test_unusable_frames_are_refused(update, message):
    with pytest.raises(ValueError, match=message):
        frame_counts(update(), (2, 3))
