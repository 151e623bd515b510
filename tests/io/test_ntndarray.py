import numpy as np
import pytest

from bluesky_ptychonn.io.codecs import CODECS
from bluesky_ptychonn.io.ntndarray import frame_counts, frame_identity, make_image, read_image, set_frame

pvaccess = pytest.importorskip("pvaccess")


def dimension_of(shape):
    return [{"size": n, "offset": 0, "fullSize": n, "binning": 1, "reverse": False} for n in shape[::-1]]


def detector_update(frame, field="ushortValue"):
    update = pvaccess.NtNdArray()
    update["uniqueId"] = 41
    update["value"] = {field: frame.ravel()}
    update["dimension"] = dimension_of(frame.shape)
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
        (lambda: detector_update(np.zeros((2, 4), np.uint16)), "2 x 4 px where 2 x 3 px were announced"),
        (lambda: detector_update(np.zeros((3, 2), np.uint16)), "3 x 2 px where 2 x 3 px were announced"),
        (lambda: detector_update(np.zeros(6, np.uint16)), "a frame of 6 px where 2 x 3 px were announced"),
        (lambda: detector_update(np.zeros((2, 3), np.uint8), "ubyteValue"), "type ubyteValue; .* 16 or 32 bits"),
        (lambda: detector_update(np.zeros((2, 3), np.float32), "floatValue"), "type floatValue"),
        (pvaccess.NtNdArray, "type nothing"),
    ],
)
def test_unusable_frames_are_refused(update, message):
    with pytest.raises(ValueError, match=message):
        frame_counts(update(), (2, 3))


def compressed_update(frame, codec, /, **change):
    update = pvaccess.NtNdArray()
    update["dimension"] = dimension_of(frame.shape)
    set_frame(update, frame, codec)
    for name, value in change.items():
        update[name] = value
    return update


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_frames_survive_every_codec(rng, codec, dtype):
    frame = rng.poisson(2, (24, 30)).astype(dtype)
    counts = frame_counts(compressed_update(frame, codec), (24, 30))
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts, frame)


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_frame_says_what_it_is_as_areadetector_does(codec):
    update = compressed_update(np.zeros((24, 30), np.uint32), codec)
    name, parameters = update["codec"]["name"], update["codec"]["parameters"][0]
    data = update["value"][0][update.getSelectedUnionFieldName()]
    assert (name, parameters["value"]) == ("" if codec == "none" else codec, 7)  # pvUInt of pvData
    assert (update["compressedSize"], update["uncompressedSize"]) == (data.nbytes, 4 * 720)
    assert data.dtype == (np.uint32 if codec == "none" else np.uint8)


@pytest.mark.parametrize("codec", ["lz4", "blosc"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_pvapy_reads_what_is_written_and_writes_what_is_read(rng, codec, dtype):
    from pvapy.utility.adImageUtility import AdImageUtility

    frame = rng.poisson(2, (24, 30)).astype(dtype)
    update = compressed_update(frame, codec)
    update["dimension"] = [pvaccess.PvDimension(size, 0, size, 1, False) for size in (30, 24)]
    np.testing.assert_array_equal(AdImageUtility.reshapeNtNdArray(update)[1], frame)
    data = update["value"][0]["ubyteValue"]
    theirs = AdImageUtility.generateNtNdArray2D(1, data, 30, 24, dtype, codec)
    np.testing.assert_array_equal(frame_counts(theirs, (24, 30)), frame)


@pytest.mark.parametrize(("dtype", "code"), [(np.uint16, 3), (np.uint32, 5)])
def test_the_type_codes_of_an_older_pvxs_plugin_are_known(rng, dtype, code):
    """NDPluginPvxs gave areaDetector's own numbers, as 64-bit integers."""
    frame = rng.poisson(2, (24, 30)).astype(dtype)
    update = compressed_update(frame, "lz4", codec=pvaccess.PvCodec("lz4", pvaccess.PvLong(code)))
    np.testing.assert_array_equal(frame_counts(update, (24, 30)), frame)


def test_bytes_behind_the_compressed_size_are_not_looked_at(rng):
    frame = rng.poisson(2, (24, 30)).astype(np.uint16)
    update = compressed_update(frame, "bslz4")
    longer = np.append(update["value"][0]["ubyteValue"], np.full(50, 7, np.uint8))
    for given in ({"ubyteValue": longer}, {"byteValue": longer.view(np.int8)}):
        update["value"] = given
        np.testing.assert_array_equal(frame_counts(update, (24, 30)), frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compressedSize": 10**6}, "where compressedSize = 1000000"),
        ({"compressedSize": 0}, "where compressedSize = 0"),
        ({"compressedSize": 20}, "cannot be used"),
        ({"uncompressedSize": 2**40}, "1099511627776 bytes and type 6 where 720 px were announced"),
        ({"uncompressedSize": 720}, "720 bytes and type 6"),
        ({"uncompressedSize": 1500}, "1500 bytes and type 6"),
        ({"codec": ("lz4", 2)}, "type 2 where 720 px .* unsigned integers of 16 or 32 bits"),
        ({"codec": ("lz4", 7)}, "type 7"),
        ({"codec": ("jpeg", 6)}, "compressed with 'jpeg'; allowed is lz4, blosc, bslz4; .*StreamDecompress"),
        ({"codec": ("blosc", 6)}, "compressed with blosc cannot be used"),
    ],
)
def test_compressed_frames_that_contradict_themselves_are_refused(rng, change, message):
    if "codec" in change:
        name, code = change["codec"]
        change = {"codec": pvaccess.PvCodec(name, pvaccess.PvInt(code))}
    update = compressed_update(rng.poisson(2, (24, 30)).astype(np.uint16), "lz4", **change)
    with pytest.raises(ValueError, match=message):
        frame_counts(update, (24, 30))


def test_a_codec_that_does_not_say_its_type_is_refused(rng):
    update = pvaccess.NtNdArray()
    update["value"], update["dimension"] = {"ubyteValue": np.zeros(9, np.uint8)}, dimension_of((2, 3))
    update["codec.name"] = "lz4"
    update["compressedSize"], update["uncompressedSize"] = 9, 12
    with pytest.raises(ValueError, match="12 bytes and type None"):
        frame_counts(update, (2, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_frames_of_other_types_are_not_served(dtype):
    with pytest.raises(ValueError, match=f"counts of type {np.dtype(dtype)}"):
        set_frame(pvaccess.NtNdArray(), np.zeros((2, 3), dtype))
