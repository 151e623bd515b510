import numpy as np
import pytest

from bluesky_ptychonn.core.binning import bin_frames
from bluesky_ptychonn.core.frames import no_data


def bin_slowly(frames, corner, binning, n, bad):
    """The same with numpy, in Python's own integers: pad, then take each superpixel by itself."""
    margin, missing = 80, no_data(frames.dtype)
    wide = np.full((len(frames), *(size + 2 * margin for size in frames.shape[1:])), missing, object)
    wide[:, margin:-margin, margin:-margin] = np.where(bad, missing, frames)
    out = np.empty((len(frames), n, n), frames.dtype)
    for b, i, j in np.ndindex(out.shape):
        row, column = margin + corner[0] + i * binning, margin + corner[1] + j * binning
        pixels = wide[b, row : row + binning, column : column + binning]
        valid = pixels[pixels != missing]
        value = (sum(valid) * pixels.size + valid.size // 2) // valid.size if valid.size else missing
        out[b, i, j] = min(value, missing)
    return out


@pytest.fixture(params=[np.uint16, np.uint32])
def frames(request, rng):
    """Faint frames with pixels that have no data, and one part too bright for the type."""
    made = rng.poisson(3, (3, 24, 30)).astype(request.param)
    made[rng.random(made.shape) < 0.1] = no_data(made.dtype)
    made[1, 8:16, 8:16] = no_data(made.dtype) - 1
    return made


@pytest.mark.parametrize("binning", range(1, 9))
@pytest.mark.parametrize("corner", [(0, 0), (2, 5), (-5, 3), (11, -9), (0, 30), (-40, -40)])
def test_every_superpixel_is_the_rescaled_sum_of_what_counts(frames, rng, binning, corner):
    bad = rng.random((24, 30)) < 0.3
    out = np.empty((3, 4, 4), frames.dtype)
    bin_frames(frames, corner, binning, out, bad)
    np.testing.assert_array_equal(out, bin_slowly(frames, corner, binning, 4, bad))


def test_whole_superpixels_are_plain_sums(rng):
    frames, out = rng.poisson(50, (4, 32, 32)).astype(np.uint16), np.empty((4, 8, 8), np.uint16)
    bin_frames(frames, (0, 0), 4, out)
    np.testing.assert_array_equal(out, frames.reshape(4, 8, 4, 8, 4).sum(axis=(2, 4)))


def test_a_masked_part_loses_no_light_on_average(rng):
    """Half of the pixels see half of the photons; the superpixel shows them all, with twice the variance."""
    frames, bad = rng.poisson(4, (2000, 4, 8)).astype(np.uint16), np.zeros((4, 8), bool)
    bad[:, 4::2] = True
    out = np.empty((2000, 2, 2), np.uint16)
    bin_frames(frames, (0, 0), 4, out, bad)
    whole, half = out[:, 0].astype(float).T
    assert half.mean() == pytest.approx(whole.mean(), rel=0.02)
    assert half.var() == pytest.approx(2 * whole.var(), rel=0.2)
    assert (out[:, 1] == no_data(np.uint16)).all()


@pytest.mark.parametrize(("brightest", "shown"), [(65534 // 4, 65532), (65535 // 4 + 1, 65535)])
def test_a_sum_that_does_not_fit_has_no_data(brightest, shown):
    out = np.empty((1, 2, 2), np.uint16)
    bin_frames(np.full((1, 4, 4), brightest, np.uint16), (0, 0), 2, out)
    assert (out == shown).all()


@pytest.mark.parametrize("layout", ["fortran", "strided", "read-only"])
def test_the_memory_layout_does_not_matter(frames, layout):
    expected, out = np.empty((3, 4, 4), frames.dtype), np.empty((3, 4, 4), frames.dtype)
    bin_frames(frames, (1, 2), 4, expected)
    if layout == "strided":
        given = np.repeat(frames, 2, axis=2)[:, :, ::2]
    else:
        given = np.asfortranarray(frames) if layout == "fortran" else frames.copy()
        given.flags.writeable = layout == "fortran"
    bin_frames(given, (1, 2), 4, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"frames of {np.dtype(dtype)}; .* uint16 or uint32"):
        bin_frames(np.zeros((1, 4, 4), dtype), (0, 0), 2, np.zeros((1, 2, 2), dtype))
