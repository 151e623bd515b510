from dataclasses import replace

import numpy as np
import pytest
from simulated_scan import NO_DATA, simulate, ssim

from bluesky_ptychonn.training.retrieval.reconstruct import RECIPES, reconstruct

LEAST = {"poisson": 0.88, "batched": 0.88, "epie": 0.6, "rpie": 0.7}


@pytest.mark.parametrize("method", RECIPES)
def test_finds_the_object_although_the_probe_is_11_percent_out_of_focus(method):
    scan, truth = simulate(1, start_defocus=1.11)
    result = reconstruct(scan, method=method, sweeps=20)
    assert ssim(result, truth) > LEAST[method]
    assert result.errors[-1] < 0.1 * result.errors[0] or result.errors[-1] < 0.001
    assert result.errors_heldout[-1] < 1.5 * result.errors[-1]
    assert np.sum(np.abs(result.probe) ** 2) == pytest.approx(np.median(scan.patterns.sum(axis=(1, 2))), rel=0.1)
    assert result.positions_px + result.origin_px == pytest.approx(scan.positions_px)


@pytest.mark.parametrize("method", ["poisson", "epie"])
def test_what_is_held_out_changes_nothing(rng, method):
    scan, _ = simulate(gap=True, width_um=0.5)
    plain = reconstruct(scan, method=method, sweeps=3, modes=2)
    changed = scan.patterns.copy()
    changed[plain.held_out] = rng.integers(0, 9, changed[plain.held_out].shape)
    again = reconstruct(replace(scan, patterns=changed), method=method, sweeps=3, modes=2)
    np.testing.assert_array_equal(again.object_, plain.object_)
    np.testing.assert_array_equal(again.probe, plain.probe)
    assert again.errors_heldout[-1] > 2 * plain.errors_heldout[-1]


@pytest.mark.parametrize("method", ["poisson", "epie"])
def test_what_is_not_measured_changes_nothing(method):
    """A whole row of pixels without data, in some frames only, costs next to nothing; zeros there would cost all."""
    scan, truth = simulate(1)
    patterns = scan.patterns.copy()
    patterns[::2, 30:32] = NO_DATA
    masked = ssim(reconstruct(replace(scan, patterns=patterns), method=method, sweeps=12), truth)
    patterns[patterns == NO_DATA] = 0
    zeroed = ssim(reconstruct(replace(scan, patterns=patterns), method=method, sweeps=12), truth)
    assert masked > ssim(reconstruct(scan, method=method, sweeps=12), truth) - 0.1
    assert masked > zeroed + 0.1


def test_the_same_seed_gives_the_same_object():
    scan, _ = simulate(width_um=0.5)
    first, second, other = (reconstruct(scan, sweeps=2, seed=seed).object_ for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_probe_held_fixed_is_the_one_given():
    scan, _ = simulate(width_um=0.5)
    result = reconstruct(scan, sweeps=3, probe_from=3)
    likeness = np.vdot(result.probe[0], scan.probe) / np.linalg.norm(result.probe) / np.linalg.norm(scan.probe)
    assert abs(likeness) == pytest.approx(1, abs=1e-5)


def test_two_modes_explain_what_one_cannot():
    scan, truth = simulate(1, second_mode=0.2)
    one, two = (reconstruct(scan, sweeps=25, modes=modes) for modes in (1, 2))
    assert ssim(two, truth) > ssim(one, truth) + 0.05
    assert two.errors_heldout[-1] < 0.8 * one.errors_heldout[-1]
    power = np.sum(np.abs(two.probe) ** 2, axis=(1, 2))
    assert 0.1 < power[1] / power.sum() < 0.3
    assert abs(np.vdot(two.probe[0], two.probe[1])) < 1e-3 * power[0]


def test_wrong_positions_are_put_right():
    misplaced_px = 20e-3 / 0.0116 / np.sqrt(2)  # 20 nm rms
    scan, truth = simulate(2, misplaced_px=misplaced_px)
    result = reconstruct(scan, sweeps=30, position_bound_px=6.0)
    before, after = (
        truth.positions_px - at for at in (scan.positions_px, result.positions_px + np.array(result.origin_px))
    )
    before, after = (np.sqrt(np.mean((off - off.mean(axis=0)) ** 2)) for off in (before, after))
    assert after < 0.5 * before
    assert ssim(result, truth) > ssim(reconstruct(scan, sweeps=30), truth) + 0.1


@pytest.mark.parametrize("kind", ["etched", "letters"])
def test_right_positions_stay(kind):
    scan, _ = simulate(3, kind=kind, start_defocus=1.11)
    result = reconstruct(scan, sweeps=30, position_bound_px=6.0)
    assert np.abs(result.positions_px + result.origin_px - scan.positions_px).max() < 0.2


def test_a_position_never_moves_beyond_its_bound():
    scan, _ = simulate(3, misplaced_px=3.0)
    result = reconstruct(scan, sweeps=12, position_bound_px=0.5)
    moved = np.abs(result.positions_px + result.origin_px - scan.positions_px)
    assert moved.max() == pytest.approx(0.5, abs=1e-6)


def test_an_interruption_keeps_what_is_there():
    scan, _ = simulate(width_um=0.5)

    def impatient(progress):
        if progress.number == 4:
            raise KeyboardInterrupt

    result = reconstruct(scan, sweeps=30, on_sweep=impatient)
    assert len(result.errors) == 4
    assert result.settings["interrupted_after"] == 4
    assert np.isfinite(result.object_).all()


def test_a_beam_off_the_middle_does_not_tilt_the_object():
    """The cone is followed; a ramp of 2 px would turn the phase twice across the field."""
    scan, truth = simulate(1)
    off = replace(scan, patterns=np.roll(scan.patterns, (2, -1), axis=(1, 2)))
    result = reconstruct(off, sweeps=20)
    assert ssim(result, truth) > 0.5
    assert ssim(result, truth, remove=("ramp", "shift")) > 0.85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method = 'magic'; allowed is one of batched, poisson"),
        ({"sweeps": 0}, "sweeps = 0; it must be at least 1"),
        ({"modes": 0}, "modes = 0; it must be at least 1"),
        ({"probe_from": -1}, "probe_from = -1; it must be at least 0"),
        ({"holdout_every": 1}, "holdout_every = 1; allowed are 0"),
        ({"seed": -1}, "seed = -1; it must be at least 0"),
        ({"batch": 0}, "batch = 0; it must be at least 1"),
        ({"position_bound_px": -1.0}, "position_bound_px = -1.0 px; it must be positive"),
    ],
)
def test_nonsense_is_refused(change, message):
    scan, _ = simulate(width_um=0.3)
    with pytest.raises(ValueError, match=message):
        reconstruct(scan, **{"sweeps": 1, **change})


def test_a_scan_without_a_probe_says_what_to_give():
    scan, _ = simulate(width_um=0.3)
    with pytest.raises(ValueError, match="no probe to start from; give one: a file, the optics"):
        reconstruct(replace(scan, probe=None), sweeps=1)


@pytest.mark.parametrize("spoil", ["doubled", "astray", "one place twice"])
def test_repeated_and_astray_places_are_no_obstacle(spoil):
    scan, truth = simulate(1)
    positions_px, patterns = scan.positions_px.copy(), scan.patterns
    if spoil == "doubled":
        positions_px, patterns = np.repeat(positions_px, 2, axis=0), np.repeat(patterns, 2, axis=0)
    else:
        positions_px[-1] = positions_px[0] if spoil == "one place twice" else positions_px[-1] + 50
    result = reconstruct(
        replace(scan, patterns=patterns, positions_px=positions_px, trigger_index=np.arange(len(patterns))), sweeps=12
    )
    assert ssim(result, truth) > 0.8


def test_a_run_that_diverges_gives_its_best_sweep():
    scan, _ = simulate(1, photons=300, width_um=0.5)
    result = reconstruct(scan, method="epie", sweeps=30)
    kept = result.errors_heldout[result.settings["kept_sweep"] - 1]
    assert kept < 2 * result.errors_heldout.min()


def test_a_probe_of_two_modes_starts_two_modes():
    scan, _ = simulate(width_um=0.5)
    first = reconstruct(scan, sweeps=2, modes=2)
    assert len(reconstruct(scan, sweeps=1, probe=first.probe).probe) == 2


@pytest.mark.parametrize("probe", ["dark", "nan"])
def test_a_useless_probe_is_refused(probe):
    scan, _ = simulate(width_um=0.3)
    useless = np.zeros_like(scan.probe) if probe == "dark" else np.full_like(scan.probe, np.nan)
    with pytest.raises(ValueError, match="values that are not finite, or a mode without power"):
        replace(scan, probe=useless)
