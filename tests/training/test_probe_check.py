from dataclasses import replace

import numpy as np
import pytest
import torch
from simulated_scan import DEFOCUS_UM, GEOMETRY, simulate

from bluesky_ptychonn.core.frames import INVERSE, orient_patterns
from bluesky_ptychonn.core.optics import zone_plate_probe
from bluesky_ptychonn.training.retrieval.probe_check import check_probe, try_defoci

CPU = torch.device("cpu")


def tried(true_um, told_um):
    scan, _ = simulate(3, defocus_um=true_um)
    probe = zone_plate_probe(GEOMETRY, defocus_um=told_um)
    return try_defoci(scan, probe, GEOMETRY, told_um, seed=0, device=CPU)


@pytest.mark.parametrize("error", [pytest.param(0.7, marks=pytest.mark.soak), 1.3])
def test_the_residual_finds_a_defocus_that_is_wrong_by_30_percent(error):
    found = tried(DEFOCUS_UM * error, DEFOCUS_UM)
    assert found.inside
    assert found.best_um == pytest.approx(DEFOCUS_UM * error, rel=0.04)
    assert len(found.errors) == 9


@pytest.mark.soak
def test_beyond_what_is_tried_at_once_it_goes_on_and_says_where_it_ends():
    found = tried(1.55 * DEFOCUS_UM, DEFOCUS_UM)
    assert found.inside
    assert found.best_um == pytest.approx(1.55 * DEFOCUS_UM, rel=0.05)
    assert len(found.errors) > 9
    far = tried(2.2 * DEFOCUS_UM / 1.5, DEFOCUS_UM / 1.5)
    assert not far.inside
    assert far.defocus_um[-1] == pytest.approx(1.8 * DEFOCUS_UM / 1.5)


def checked(*, orientation="identity", told_um=DEFOCUS_UM, scrambled=False):
    scan, _ = simulate(3, defocus_um=1.2 * DEFOCUS_UM, orientation=INVERSE.get(orientation, orientation))
    if scrambled:  # frames and positions do not belong together
        scan = replace(scan, patterns=np.random.default_rng(0).permutation(scan.patterns))
    probe = zone_plate_probe(GEOMETRY, defocus_um=told_um)

    def scan_in(name):
        return replace(scan, patterns=orient_patterns(scan.patterns, name), geometry=GEOMETRY, probe=probe)

    return check_probe(scan_in, sweeps=30, device=CPU)


@pytest.mark.soak
def test_a_small_scan_is_found_and_believed():
    found = checked(orientation="rot90")
    assert found.problems == ()
    assert found.orientation.best == "rot90"
    assert found.fit.defocus_um == pytest.approx(1.2 * DEFOCUS_UM, rel=0.02)
    assert found.expected.defocus_um == pytest.approx(DEFOCUS_UM, rel=0.01)


@pytest.mark.soak
def test_nonsense_is_not_believed():
    problems = checked(scrambled=True).problems
    assert any("orientation is not decided" in problem for problem in problems), problems
    assert any("not trusted" in problem for problem in problems), problems


@pytest.mark.soak
def test_a_probe_in_focus_leaves_the_twin_open():
    problems = checked(told_um=0.5).problems
    assert any("half a turn apart" in problem for problem in problems), problems
