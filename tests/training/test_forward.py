import numpy as np
import pytest
import torch
from simulated_scan import simulate

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import intensities
from bluesky_ptychonn.training.retrieval.forward import State, Waves, error_of
from bluesky_ptychonn.training.retrieval.problem import Sweep, beam_offset_px, cone_of, make_problem, shift_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("modes", [1, 3])
def test_equals_the_forward_model(rng, modes):
    scan, truth = simulate()
    problem = make_problem(scan, scan.probe, modes=modes)
    top, left = (int(part) for part in problem.origin_px)
    height, width = problem.object_.shape
    problem.object_ = truth.object_[top : top + height, left : left + width].astype(np.complex64)
    rows = rng.permutation(len(scan.patterns))[:7]
    ours = np.fft.fftshift(Waves(State(problem, CPU), rows).intensity.numpy(), axes=(1, 2))
    expected = sum(intensities(problem.object_, mode, problem.positions_px[rows]) for mode in problem.probe)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_the_error_is_the_misfit_of_measured_pixels_over_their_counts(rng):
    scan, _ = simulate(gap=True)
    problem = make_problem(scan, scan.probe)
    rows = np.arange(3, 90)
    modelled = intensities(problem.object_, problem.probe[0], problem.positions_px[rows])
    valid = scan.valid[rows]
    misfit = np.sum((np.sqrt(modelled) - np.sqrt(scan.patterns[rows])) ** 2, where=valid)
    expected = misfit / np.sum(scan.patterns[rows], where=valid, dtype=float)
    sweep = Sweep(problem.object_, problem.probe, problem.positions_px)
    assert error_of(problem, sweep, rows, CPU) == pytest.approx(expected, rel=1e-3)
    assert np.isnan(error_of(problem, sweep, rows[:0], CPU))


def test_every_twentieth_frame_is_held_out_and_the_power_is_that_of_the_counts():
    scan, _ = simulate()
    problem = make_problem(scan, 3 * scan.probe, modes=2)
    held_out = np.setdiff1d(np.arange(len(scan.patterns)), problem.used)
    assert held_out.tolist() == list(range(10, len(scan.patterns), 20))
    assert np.sum(np.abs(problem.probe) ** 2) == pytest.approx(np.median(scan.patterns.sum(axis=(1, 2))), rel=0.05)


@pytest.mark.parametrize("shift_px", [(0.3, -0.01), (-4.7, 2.2), (0.0, 0.0)])
def test_a_cone_off_the_middle_is_found(shift_px):
    scan, _ = simulate()
    n = scan.patterns.shape[-1]
    y, x = (np.mgrid[:n, :n] - n / 2) / n
    tilted = scan.probe * np.exp(2j * np.pi * (y * shift_px[0] + x * shift_px[1]))
    found = shift_of(cone_of(tilted[None]), cone_of(scan.probe[None]))
    assert found == pytest.approx(shift_px, abs=0.1)
    empty = np.rint(1e6 * cone_of(tilted[None]) ** 2).astype(np.uint32)[None]
    empty[0, 5:9] = no_data(empty.dtype)
    assert beam_offset_px(scan.probe[None], empty) == pytest.approx(shift_px, abs=0.1)
