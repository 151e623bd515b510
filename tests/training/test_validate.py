"""Validation of any engine on any scan: what must hold of its figures, whatever the engine."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from simulated_scan import GEOMETRY, NO_DATA, simulate
from tiny_models import true_reconstruction

from bluesky_ptychonn.core.frc import SMALLEST_PX
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import intensities, measured_probe, with_counts, zone_plate_probe
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.training.learning import validate as module
from bluesky_ptychonn.training.learning.validate import residual_of, validate

PHOTONS = 1e6


class Cutter:
    """An engine that knows the object: each pattern's patch is cut from an image at its place."""

    name, card, max_batch, frame_px, patch_px = "cutter", None, 8, GEOMETRY.frame_px, 48

    def __init__(self, image, patterns, places_px):
        corners = np.rint(places_px).astype(int) - self.patch_px // 2
        patches = (image[y : y + self.patch_px, x : x + self.patch_px] for y, x in corners)
        self._known = {pattern.tobytes(): patch for pattern, patch in zip(patterns, patches, strict=True)}

    def set_probe(self, probe):
        self.probe = probe

    def infer(self, patterns):
        return np.stack([self._known[pattern.tobytes()] for pattern in patterns]).astype(np.float32)


@pytest.fixture(scope="module")
def simulated():
    scan, truth = simulate(1, width_um=0.6, photons=PHOTONS)
    return scan, truth, true_reconstruction(scan, truth)


@pytest.fixture(scope="module")
def probe():
    return with_counts(zone_plate_probe(GEOMETRY, defocus_um=75.0), PHOTONS)


def cutter(simulated, image=None):
    scan, truth, _ = simulated
    return Cutter(np.angle(truth.object_) if image is None else image, scan.patterns, truth.positions_px)


def test_the_reconstruction_fed_through_an_engine_is_itself(simulated):
    found = validate(cutter(simulated), simulated[0], simulated[2])
    assert found.ssim > 0.999
    assert found.mismatch == 1 - found.ssim
    assert found.mae_rad < 1e-3
    assert found.correlation > 0.9999
    assert found.frc_cycles_per_px == 0.5
    assert found.removed == "constant+ramp+shift"
    assert found.data_range == pytest.approx(0.6, abs=0.01)
    assert found.image.shape == found.reference.shape
    assert min(found.image.shape) >= SMALLEST_PX


def test_constant_ramp_and_shift_cost_nothing(simulated):
    _, truth, reconstruction = simulated
    phase = np.angle(truth.object_)
    y, x = np.indices(phase.shape)
    moved = ndimage.shift(phase, (0.4, -0.3), order=3, mode="nearest")
    found = validate(cutter(simulated, moved + 0.7 + 0.004 * y - 0.003 * x), simulated[0], reconstruction)
    assert found.ssim > 0.97
    assert found.frc_cycles_per_px > 0.25
    np.testing.assert_allclose(found.image[4:-4, 4:-4], found.reference[4:-4, 4:-4], atol=0.08)


def test_a_ramp_of_the_reconstruction_costs_nothing_and_stretches_no_range(simulated):
    scan, truth, reconstruction = simulated
    y, x = np.indices(truth.object_.shape)
    tilted = replace(reconstruction, object_=truth.object_ * np.exp(1j * (0.3 * y - 0.2 * x + 1)))
    blurred = cutter(simulated, ndimage.gaussian_filter(np.angle(truth.object_), 2))
    plain, found = validate(blurred, scan, reconstruction), validate(blurred, scan, tilted)
    for name in ("ssim", "mae_rad", "correlation", "data_range", "frc_cycles_per_px"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=2e-3)


def test_worse_images_have_worse_figures(simulated):
    scan, truth, reconstruction = simulated
    phase = np.angle(truth.object_)
    images = (phase, ndimage.gaussian_filter(phase, 2), ndimage.gaussian_filter(phase, 5))
    found = [validate(cutter(simulated, image), scan, reconstruction) for image in images]
    assert [f.ssim for f in found] == sorted((f.ssim for f in found), reverse=True)
    assert [f.residual for f in found] == sorted(f.residual for f in found)
    assert [f.frc_cycles_per_px for f in found] == sorted((f.frc_cycles_per_px for f in found), reverse=True)
    assert found[-1].residual < found[-1].residual_blank


def test_without_a_reconstruction_the_residual_is_the_same_and_nothing_is_compared(simulated):
    scan, _, reconstruction = simulated
    engine = open_engine("lift", frame_px=GEOMETRY.frame_px)
    compared, alone = validate(engine, scan, reconstruction), validate(engine, scan)
    assert alone.residual == pytest.approx(compared.residual, rel=1e-4)
    assert alone.residual_blank == pytest.approx(compared.residual_blank)
    assert alone.residual < alone.residual_blank
    nothing = ("ssim", "mae_rad", "correlation", "frc_cycles_per_px", "removed", "data_range", "region", "mismatch")
    assert {alone.as_figures()[name] for name in nothing} == {None}
    assert compared.as_figures().keys() == alone.as_figures().keys()
    assert (compared.engine, compared.model, compared.frames) == ("lift", "", len(scan.patterns))


@pytest.mark.parametrize("kind", ["etched", "letters"])
def test_the_residual_prefers_the_truth(kind, probe):
    scan, truth = simulate(3, kind=kind, width_um=0.6, photons=PHOTONS)
    phase = np.angle(truth.object_)
    images = {
        "true": phase,
        "blurred": ndimage.gaussian_filter(phase, 2),
        "weak": 0.6 * phase,
        "blank": np.zeros_like(phase),
        "another": np.roll(phase, 20, axis=(0, 1)),
        "upside down": -phase,
    }
    found = {name: residual_of(image, scan.patterns, truth.positions_px, probe) for name, image in images.items()}
    assert min(found, key=found.__getitem__) == "true"
    assert found["true"] < 0.7 * min(value for name, value in found.items() if name != "true")
    blank = residual_of(None, scan.patterns, truth.positions_px, probe)
    assert blank == pytest.approx(found["blank"], rel=1e-4)
    assert found["upside down"] > blank


def test_a_constant_changes_no_residual_even_where_little_was_seen(simulated, probe):
    scan, truth, _ = simulated
    seen = np.angle(truth.object_).copy()
    seen[:60] = np.nan
    plain, lifted = (residual_of(seen + c, scan.patterns, truth.positions_px, probe) for c in (0.0, 2.5))
    assert lifted == pytest.approx(plain, rel=1e-5)


def test_the_residual_grows_with_the_error_of_the_probe(simulated):
    scan, truth, _ = simulated
    phase, found = np.angle(truth.object_), []
    for defocus in (1.0, 1.15, 1.4):
        wrong = with_counts(zone_plate_probe(GEOMETRY, defocus_um=75.0 * defocus), PHOTONS)
        found.append(residual_of(phase, scan.patterns, truth.positions_px, wrong))
    assert found == sorted(found)
    assert found[2] > 1.5 * found[0]


def test_the_probe_of_the_residual_can_be_given(simulated, probe):
    scan, truth, reconstruction = simulated
    engine = cutter(simulated)
    own = validate(engine, scan, reconstruction)
    measured = measured_probe(scan.probe, scan.patterns[:64])
    assert validate(engine, scan, reconstruction, probe=measured).residual == pytest.approx(own.residual)
    assert validate(engine, scan, reconstruction, probe=probe).residual != own.residual
    modes = np.stack([np.sqrt(0.5) * probe, np.sqrt(0.5) * probe]).astype(np.complex64)
    phase = np.angle(truth.object_)
    one, two = (residual_of(phase, scan.patterns, truth.positions_px, p) for p in (probe, modes))
    assert two == pytest.approx(one, rel=1e-4)


def test_masked_pixels_carry_nothing(simulated, probe):
    _, truth, _ = simulated
    measured = intensities(truth.object_, probe, truth.positions_px)
    counts = np.rint(measured).astype(np.uint16)
    counts[:, 20:24] = NO_DATA
    assert residual_of(np.angle(truth.object_), counts, truth.positions_px, probe) < 0.01
    counts[:, 20:24] = 60000
    assert residual_of(np.angle(truth.object_), counts, truth.positions_px, probe) > 0.5


def test_parts_do_not_matter(simulated, probe, monkeypatch):
    scan, truth, _ = simulated
    phase = np.angle(truth.object_)
    whole = residual_of(phase, scan.patterns, truth.positions_px, probe)
    monkeypatch.setattr(module, "CHUNK_PX", 7 * GEOMETRY.frame_px**2)
    assert residual_of(phase, scan.patterns, truth.positions_px, probe) == pytest.approx(whole, rel=1e-9)


def test_origin_and_unit_of_the_positions_do_not_matter(simulated):
    scan, _, reconstruction = simulated
    engine = open_engine("lift", frame_px=GEOMETRY.frame_px)
    here = validate(engine, scan, reconstruction)
    elsewhere = replace(scan, positions_px=scan.positions_px + [5000.0, -3000.0], pixel_size_um=None)
    there = validate(engine, elsewhere, replace(reconstruction, origin_px=(5000.0, -3000.0), pixel_size_um=None))
    assert there.as_figures() == pytest.approx(here.as_figures())


def test_frames_beyond_the_reconstruction_are_stitched_and_judged(simulated):
    """A reconstruction cut to the middle: the canvas grows by what the fields of the other frames need."""
    scan, truth, reconstruction = simulated
    cut = 30
    middle = (slice(cut, -cut), slice(cut, -cut))
    smaller = replace(
        reconstruction,
        object_=reconstruction.object_[middle],
        coverage=reconstruction.coverage[middle],
        positions_px=truth.positions_px - cut,
        origin_px=(float(cut), float(cut)),
    )
    whole, part = validate(cutter(simulated), scan, reconstruction), validate(cutter(simulated), scan, smaller)
    assert part.residual == pytest.approx(whole.residual, rel=1e-3)
    assert part.ssim > 0.999


def test_corrected_positions_are_used_and_frames_pair_by_trigger(simulated):
    """The reconstruction moved every frame and knows only the even triggers, in another order."""
    scan, truth, reconstruction = simulated
    wrong = replace(scan, positions_px=scan.positions_px + [0.0, 9.0])
    known = np.arange(0, len(scan.patterns), 2)[::-1]
    moved = replace(reconstruction, positions_px=truth.positions_px[known], trigger_index=known, origin_px=(0.0, 9.0))
    assert validate(cutter(simulated), wrong, moved).ssim > 0.999


def test_a_phase_beyond_a_turn_is_compared_without_jumps(simulated):
    scan, truth, reconstruction = simulated
    y, x = np.indices(truth.object_.shape)
    hill = 5 * np.exp(-((y - y.mean()) ** 2 + (x - x.mean()) ** 2) / (2 * 15**2))
    found = validate(cutter(simulated, hill), scan, replace(reconstruction, object_=np.exp(1j * hill)))
    assert found.ssim > 0.99
    assert found.data_range > np.pi


def test_an_astray_pixel_does_not_stretch_the_range(simulated):
    scan, truth, reconstruction = simulated
    spoiled = truth.object_.copy()
    y, x = np.subtract(spoiled.shape, 0) // 2
    spoiled[y, x] *= np.exp(2.5j)
    found = validate(cutter(simulated), scan, replace(reconstruction, object_=spoiled))
    assert found.data_range == pytest.approx(0.6, abs=0.02)


def test_patches_that_are_not_finite_are_refused(simulated):
    scan, truth, reconstruction = simulated
    image = np.angle(truth.object_).copy()
    image[np.subtract(image.shape, 0)[0] // 2] = np.nan
    with pytest.raises(EngineMismatch, match="engine 'cutter' gives patches that are not finite"):
        validate(cutter(simulated, image), scan, reconstruction)


def test_models_for_other_scans_are_refused(simulated):
    scan, _, reconstruction = simulated
    with pytest.raises(EngineMismatch, match="takes patterns of 128 px, the scan has 64 px"):
        validate(open_engine("lift"), scan, reconstruction)
    engine = cutter(simulated)
    files = {"model.onnx": 64 * "0", "golden.npz": 64 * "0"}
    for values, message in (
        ({"pixel_size_um": 0.02, "energy_kev": None}, r"pixel_size_um = 0\.011\d* um .* from 0\.02 um of model tiny-1"),
        ({"pixel_size_um": None, "energy_kev": 8.0}, r"energy_kev = 10 keV of the scan .* from 8 keV"),
    ):
        engine.card = ModelCard("tiny", "tiny-1", files, 64, 48, **values)
        with pytest.raises(EngineMismatch, match=message):
            validate(engine, replace(scan, geometry=GEOMETRY), reconstruction)


def test_reconstructions_of_other_scans_are_refused(simulated):
    scan, _, reconstruction = simulated
    engine = cutter(simulated)
    scan = replace(scan, provenance={"file": "a.npz", "sha256": "1"})
    for changes, message in (
        ({"provenance": {"file": "b.npz", "sha256": "2"}}, r"is of another scan, b\.npz"),
        ({"probe": np.ones((1, 32, 32), np.complex64)}, "patterns of 64 px, but a reconstruction of 32 px"),
        ({"pixel_size_um": 0.02}, r"the scan has pixels of 11\.\d+ nm, its reconstruction of 20 nm"),
        ({"trigger_index": reconstruction.trigger_index + 10_000}, "none of .* frames has a place"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(engine, scan, replace(reconstruction, **changes))


def test_a_scan_without_a_probe_takes_that_of_its_reconstruction(simulated):
    scan, _, reconstruction = simulated
    engine = cutter(simulated)
    bare = replace(scan, probe=None)
    assert validate(engine, bare, reconstruction).residual == pytest.approx(
        validate(engine, scan, reconstruction).residual
    )
    with pytest.raises(ValueError, match="the scan has no probe"):
        validate(engine, bare)
