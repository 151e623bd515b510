"""Labels against the truth of simulated scans."""

import contextlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from simulated_scan import GEOMETRY, simulate

from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.optics import intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.learning.corpus import Corpus
from bluesky_ptychonn.training.learning.labels import FAINTEST, label_scan
from bluesky_ptychonn.training.retrieval.field import light_on
from bluesky_ptychonn.training.retrieval.problem import Sweep

N = GEOMETRY.frame_px
TRUSTED = RetrievalReport(True, "it fits", 0.002, 0.0021, 0.02, 0.0019, 0.4, 14.5, 0.95, 0.8, 1e6)
PER_FRAME = ("patterns", "positions_px", "trigger_index")
PROBE = with_counts(zone_plate_probe(GEOMETRY, defocus_um=75.0), 1e6)


def reconstruction_of(object_, positions_px, **changes):
    """The truth, as if phase retrieval had found it."""
    rows = np.arange(len(positions_px))
    whole = Reconstruction(
        object_=object_,
        probe=PROBE[None],
        positions_px=positions_px,
        origin_px=(0.0, 0.0),
        pixel_size_um=GEOMETRY.pixel_size_um,
        coverage=light_on(Sweep(object_, PROBE[None], positions_px)),
        trigger_index=rows,
        held_out=rows % 20 == 10,
        errors=np.array([0.002]),
        errors_heldout=np.array([0.0021]),
        settings={"method": "poisson", "sweeps": 60},
        provenance={"run_uid": "5f3a0c1b", "torch": "2"},
        report=TRUSTED,
    )
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def flown():
    """A scan of some 80 frames, its truth as a reconstruction, and its truth."""
    scan, truth = simulate(3, step_um=0.1)
    scan = replace(scan, provenance={"run_uid": "5f3a0c1b"}, geometry=GEOMETRY)
    return scan, reconstruction_of(truth.object_, truth.positions_px), truth


def smooth(y, x):
    """Log amplitude and phase of one round bump, known between pixels too."""
    bump = np.exp(-((y - 74.0) ** 2 + (x - 62.0) ** 2) / (2 * 6.0**2))
    return -0.1 * bump, -0.8 * bump


def test_a_label_lies_around_its_position_to_a_small_part_of_a_pixel(rng):
    """Against a formula; a tenth of a pixel would be seen."""
    positions_px = 64 + rng.uniform(-12, 12, (12, 2))
    log_amplitude, phase = smooth(*np.mgrid[:140, :140])
    object_ = np.exp(log_amplitude + 1j * phase).astype(np.complex64)
    patterns = rng.poisson(intensities(object_, PROBE, positions_px)).astype(np.uint16)
    made = label_scan(ScanData(patterns, positions_px), reconstruction_of(object_, positions_px))

    removed = made.about["removed"]

    def left(y, x):
        log_amplitude, phase = smooth(y, x)
        slope = removed["slope_y_rad_per_px"] * (y - 70) + removed["slope_x_rad_per_px"] * (x - 70)
        return np.stack([log_amplitude - np.log(removed["amplitude"]), phase - removed["phase_rad"] - slope])

    y, x = np.mgrid[:N, :N] - N // 2
    compared = 0
    for label, seen, (row, column) in zip(made.labels, made.seen, positions_px, strict=True):
        expected, moved = (left(row + part + y, column + part + x) for part in (0, 0.1))
        sure = (seen == 255) & (np.hypot(row + y - 74, column + x - 62) < 12)
        compared += np.count_nonzero(sure)
        assert np.abs(label - expected)[:, sure].max() < 0.2 * np.abs(moved - expected)[1, sure].max()
    assert compared > 1000


@pytest.mark.parametrize("kind", ["etched", "letters"])
@pytest.mark.parametrize("seed", [3, 4])
def test_the_background_comes_to_phase_0_and_amplitude_1(kind, seed):
    """Whatever the constants that phase retrieval left, labels are those of a simulated object."""
    scan, truth = simulate(seed, kind=kind, step_um=0.1)
    turned = reconstruction_of(0.7 * np.exp(2.9j) * truth.object_, truth.positions_px, probe=PROBE[None] / 0.7)
    made = label_scan(scan, turned)

    removed = made.about["removed"]
    assert (removed["found"], removed["phase_rad"]) == ("peak", pytest.approx(2.9, abs=0.02))
    assert removed["amplitude"] == pytest.approx(0.7, rel=0.01)
    whole = np.rint(truth.positions_px).astype(int)
    nearly = np.flatnonzero(np.abs(truth.positions_px - whole).max(axis=1) < 0.15)
    assert len(nearly) > 2
    for row in nearly:
        y, x = whole[row] - N // 2
        patch = truth.object_[y : y + N, x : x + N]
        sure = made.seen[row] == 255
        assert compare_phase(np.where(sure, made.labels[row, 1], 0), np.where(sure, np.angle(patch), 0)).mae_rad < 0.02
        assert np.mean(np.abs(made.labels[row, 0] - np.log(np.abs(patch)))[sure]) < 0.01
        background = sure & (np.abs(patch) > 0.9999)
        assert np.median(np.abs(made.labels[row][:, background])) < 0.015


def test_a_slope_goes_from_the_object_to_the_probe(flown):
    """Phase retrieval cannot tell them apart; neither the labels nor the probe to learn from depend on who has it."""
    scan, good, _ = flown
    slope = np.array([0.03, -0.07])

    def tilt(y, x):
        return np.exp(1j * (slope[0] * y + slope[1] * x)).astype(np.complex64)

    on_probe = tilt(*(np.mgrid[:N, :N] - N // 2))
    sloped = replace(good, object_=good.object_ * tilt(*np.indices(good.object_.shape)), probe=good.probe / on_probe)
    made, whole = label_scan(scan, sloped), label_scan(scan, good)
    removed, before = made.about["removed"], whole.about["removed"]
    for axis, value in zip("yx", slope, strict=True):
        name = f"slope_{axis}_rad_per_px"
        assert removed[name] - before[name] == pytest.approx(value, abs=1e-4)
        assert before[name] == pytest.approx(0, abs=5e-4)
    sure = (made.seen == 255)[:, None]
    np.testing.assert_allclose(made.labels * sure, whole.labels * sure, atol=0.01)
    assert np.abs(np.vdot(made.probe, whole.probe)) == pytest.approx(np.linalg.norm(whole.probe) ** 2, rel=1e-4)


def test_borders_are_weighted_out(flown):
    """Weights are 255 in the field and fall smoothly to 0 beyond, also outside the object; labels are 0 there."""
    scan, good, truth = flown
    cut = 20
    inner = {"object_": good.object_[cut:, cut:], "coverage": good.coverage[cut:, cut:]}
    made = label_scan(scan, replace(good, positions_px=good.positions_px - cut, **inner))
    whole = label_scan(scan, good)
    np.testing.assert_array_equal(made.seen, whole.seen)  # the cut was in the dark

    centre = np.argmin(np.linalg.norm(truth.positions_px - truth.positions_px.mean(axis=0), axis=1))
    edge = np.argmin(truth.positions_px[:, 0])
    assert made.seen[centre][N // 2 - 6 : N // 2 + 6, N // 2 - 6 : N // 2 + 6].min() == 255
    assert made.seen[edge][0].max() == 0 < made.seen[edge][N // 2 + 8, N // 2]
    assert len(np.unique(made.seen)) > 200
    assert not made.labels.transpose(0, 2, 3, 1)[made.seen == 0].any()
    assert made.labels.transpose(0, 2, 3, 1)[made.seen > 0].any()


def test_a_position_at_the_rim_of_the_object_is_labelled(flown):
    """Its field leaves the object; what is outside is not known."""
    scan, good, truth = flown
    top = int(truth.positions_px[:, 0].min()) - 4
    lower = {"object_": good.object_[top:], "coverage": good.coverage[top:]}
    made = label_scan(scan, replace(good, positions_px=good.positions_px - [top, 0], **lower))
    whole = label_scan(scan, good)
    edge = np.argmin(truth.positions_px[:, 0])
    outside = N // 2 - 5
    assert not made.seen[edge, :outside].any()
    inside = (slice(None), slice(outside + 8, None))
    np.testing.assert_allclose(made.labels[edge][inside], whole.labels[edge][inside], atol=5e-3)


def test_frames_keep_their_own_places(flown, rng):
    """Triggers that one of the two lacks, and rows in any order: no frame gets another's label."""
    scan, good, _ = flown
    whole = label_scan(scan, good)
    frames = len(scan.patterns)
    order, of_scan = rng.permutation(frames)[:-7], np.delete(np.arange(frames), [0, 4, 5, 60])
    made = label_scan(
        replace(scan, left_out=4, **{name: getattr(scan, name)[of_scan] for name in PER_FRAME}),
        replace(good, **{name: getattr(good, name)[order] for name in ("held_out", *PER_FRAME[1:])}),
    )

    both = np.intersect1d(order, of_scan)
    np.testing.assert_array_equal(made.patterns, scan.patterns[both])
    np.testing.assert_allclose(
        made.labels * (made.seen[:, None] == 255), whole.labels[both] * (made.seen[:, None] == 255), atol=2e-3
    )
    assert made.about["frames_without_place"] == 4 + len(of_scan) - len(both)
    assert whole.about["frames_without_place"] == 0


def test_held_out_frames_and_missing_pixels_stay(flown):
    scan, good, _ = flown
    assert good.held_out.any()
    patterns = scan.patterns.copy()
    patterns[:, 20:22] = 65535
    made = label_scan(replace(scan, patterns=patterns), good)
    np.testing.assert_array_equal(made.patterns, patterns)
    assert np.sum(np.abs(made.probe) ** 2) == pytest.approx(1e6, rel=0.1)  # the gap does not count as dark


def test_a_frame_astray_is_left_out(flown):
    """One frame far from the others lies on an object that it alone has seen."""
    scan, good, truth = flown
    large = np.pad(truth.object_, ((0, 150), (0, 0)), constant_values=1)
    places = good.positions_px.copy()
    places[5] = [len(truth.object_) + 100, 90]
    patterns = scan.patterns.copy()
    patterns[5] = np.random.default_rng(0).poisson(intensities(large, PROBE, places[5:6])[0])
    astray = reconstruction_of(large, places)
    made = label_scan(replace(scan, patterns=patterns), astray)
    assert made.about["frames_badly_covered"] == 1
    np.testing.assert_array_equal(made.patterns, np.delete(patterns, 5, axis=0))


def test_the_manifest_tells_where_labels_come_from(flown, tmp_path):
    scan, good, _ = flown
    report = replace(TRUSTED, frc_nm=np.float64(14.5))  # as phase retrieval measures it
    first, second = (label_scan(scan, replace(good, report=report), about={"beamline": "26-ID"}) for _ in range(2))
    shard = Corpus(tmp_path).add(first)
    assert Corpus(tmp_path).add(second).name == shard.name
    assert shard.run == "5f3a0c1b"
    about = shard.manifest["about"]
    assert about == json.loads(json.dumps(first.about))
    assert about["photons_per_frame"] == pytest.approx(1e6, rel=0.1)
    told = {"kind": "reconstruction", "pixel_size_um": GEOMETRY.pixel_size_um, "energy_kev": 10.0, "beamline": "26-ID"}
    told |= {"method": "poisson", "sweeps": 60, "verdict": "trusted", "error_heldout": 0.0021, "frc_nm": 14.5}
    assert told.items() <= about.items()

    of_a_file = {"file": "scan.npz", "sha256": "ab12"}
    about = label_scan(replace(scan, provenance=of_a_file), replace(good, provenance=of_a_file)).about
    assert (about["run"], about["file"]) == ("ab12", "scan.npz")


def test_the_brightest_mode_carries_all_counts(flown):
    scan, good, _ = flown
    probe = label_scan(scan, good).probe
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(np.median(scan.patterns.sum(axis=(1, 2))), rel=1e-4)
    modes = np.stack([np.sqrt(0.7) * PROBE, np.sqrt(0.3) * PROBE])
    np.testing.assert_allclose(label_scan(scan, replace(good, probe=modes)).probe, probe, atol=1e-3)


UNTRUSTED = replace(TRUSTED, trusted=False, reason="too sparse: scan with a smaller step")
REFUSED = [
    (
        lambda scan, good: ({}, {"report": UNTRUSTED}),
        r"not trusted, .*: too sparse: .* smaller step; reconstruct again",
    ),
    (lambda scan, good: ({}, {"report": None}), "no verdict; judge it first"),
    (lambda scan, good: ({"provenance": {"run_uid": "other"}}, {}), "run_uid = other, the reconstruction is of 5f3a"),
    (lambda scan, good: ({"trigger_index": scan.trigger_index + 999}, {}), "none of 8. frames has a place"),
    (lambda scan, good: ({"trigger_index": scan.trigger_index // 2}, {}), "a trigger comes twice"),
    (lambda scan, good: ({}, {"trigger_index": good.trigger_index // 2}), "a trigger comes twice"),
    (lambda scan, good: ({}, {"positions_px": np.full_like(good.positions_px, np.nan)}), "has a place"),
    (lambda scan, good: ({"pixel_size_um": 1.03 * good.pixel_size_um}, {}), "at most 2 % .* read it with the energy"),
    (lambda scan, good: ({}, {"probe": good.probe[:, 8:-8, 8:-8]}), "patterns of 64 px, but .* cut the scan to 48 px"),
    (lambda scan, good: ({"patterns": np.roll(scan.patterns, 1, axis=0)}, {}), "does not explain these patterns"),
    (lambda scan, good: ({"patterns": np.roll(scan.patterns, 3, axis=2)}, {}), "the error is 0.*beam centre"),
    (lambda scan, good: ({"patterns": scan.patterns[:, ::-1].copy()}, {}), "does not explain .* the orientation"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_refused(flown, spoil, message):
    scan, good, _ = flown
    of_scan, of_reconstruction = spoil(scan, good)
    with pytest.raises(ValueError, match=re.compile(message)):
        label_scan(replace(scan, **of_scan), replace(good, **of_reconstruction))


@pytest.mark.parametrize(("factor", "taken"), [(1.019, True), (0.982, True), (1.021, False), (0.97, False)])
def test_a_network_of_other_pixels_is_refused_beyond_2_percent(flown, factor, taken):
    scan, good, _ = flown
    pixel_size_um = good.pixel_size_um / factor
    refused = pytest.raises(ValueError, match=r"the network of .* nm; at most 2 % .* train a network for these")
    with contextlib.nullcontext() if taken else refused:
        made = label_scan(scan, good, pixel_size_um=pixel_size_um)
        np.testing.assert_array_equal(made.labels, label_scan(scan, good).labels)
    unknown = replace(good, pixel_size_um=None)
    assert "pixel_size_um" not in label_scan(scan, unknown, pixel_size_um=pixel_size_um).about


def test_labels_stay_finite_where_the_object_is_opaque(flown):
    scan, good, truth = flown
    opaque = truth.object_.copy()
    opaque[tuple(np.rint(truth.positions_px.mean(axis=0)).astype(int))] = 0
    made = label_scan(scan, replace(good, object_=opaque))
    assert np.isfinite(made.labels).all()
    assert made.labels[:, 0].min() == pytest.approx(np.log(FAINTEST), abs=2e-3)


def test_a_real_reconstruction_gives_labels_like_the_truth():
    pytest.importorskip("torch")
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    scan, truth = simulate(5, photons=1e5, step_um=0.1)
    found = reconstruct(scan, sweeps=20)
    made = label_scan(scan, replace(found, report=TRUSTED))
    phase = np.angle(truth.object_)
    errors = []
    for label, seen, (y, x) in zip(made.labels, made.seen, truth.positions_px, strict=True):
        expected = ndimage.shift(phase, (-(y % 1), -(x % 1)), order=3)
        top, left = int(y) - N // 2, int(x) - N // 2
        errors.append(np.abs(label[1] - expected[top : top + N, left : left + N])[seen == 255])
    assert made.about["removed"]["found"] == "peak"
    assert np.mean(np.concatenate(errors)) < 0.04
