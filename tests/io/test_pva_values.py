import numpy as np
import pytest

from bluesky_ptychonn.io.pva_values import as_pva, fill

pvaccess = pytest.importorskip("pvaccess")

STRUCTURE = {
    "text": pvaccess.STRING,
    "count": pvaccess.INT,
    "value": pvaccess.DOUBLE,
    "counts": [pvaccess.INT],
    "values": [pvaccess.DOUBLE],
    "texts": [pvaccess.STRING],
}


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("text", 5, "5"),
        ("count", np.int64(7), 7),
        ("count", 7.0, 7),
        ("value", np.float32(1.5), 1.5),
        ("values", np.arange(6.0)[::2], [0, 2, 4]),  # pvapy alone would send 0, 1, 2
        ("values", np.arange(3), [0, 1, 2]),
        ("counts", (1, 2), [1, 2]),
        ("counts", np.arange(4, dtype=np.int64)[::-1], [3, 2, 1, 0]),
        ("values", [], []),
        ("texts", ["a", "b"], ["a", "b"]),
    ],
)
def test_values_arrive_as_they_are(field, given, expected):
    filled = fill(pvaccess.PvObject(STRUCTURE), STRUCTURE, {field: given})
    np.testing.assert_array_equal(filled[field], expected)


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("nothing", 1, "no field 'nothing'"),
        ("count", 1.5, "'count': 1.5 does not fit"),
        ("count", 2**40, "does not fit"),
        ("counts", [1.5], "'counts'"),
        ("values", "abc", "'values'"),
    ],
)
def test_values_which_do_not_fit_are_named(field, given, message):
    with pytest.raises(ValueError, match=message):
        fill(pvaccess.PvObject(STRUCTURE), STRUCTURE, {field: given})


def test_nested_kinds_pass():
    assert as_pva({"a": pvaccess.INT}, {"a": 1}) == {"a": 1}
