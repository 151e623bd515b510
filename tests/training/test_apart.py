import numpy as np
import pytest

pytest.importorskip("torch")
from dataclasses import replace

from simulated_scan import simulate
from tiny_models import true_reconstruction

from bluesky_ptychonn.core.optics import probe_diameter_um, with_counts
from bluesky_ptychonn.training.learning.apart import apart, judging_part, part_of_shard, rows_of
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan


@pytest.fixture(scope="module")
def scan_and_truth():
    scan, truth = simulate(3, width_um=1.4)
    scan = replace(scan, provenance={"run_uid": "a", "file": "a.npz"})
    return scan, true_reconstruction(scan, truth, probe=with_counts(scan.probe, 1e6)[None])


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_no_frame_that_is_learned_from_has_light_in_common_with_one_that_judges(scan_and_truth, share):
    scan, _ = scan_and_truth
    learned, judged = apart(scan, scan.probe, share)
    assert len(judged) == pytest.approx(share * len(scan.patterns), abs=1)
    distance_px = np.linalg.norm(scan.positions_px[learned, None] - scan.positions_px[judged], axis=-1)
    assert distance_px.min() > probe_diameter_um(scan.probe, 1.0)


def test_along_the_longer_side(scan_and_truth):
    scan, _ = scan_and_truth
    flat = replace(scan, positions_px=scan.positions_px * [1, 2])
    learned, judged = apart(flat, scan.probe, 0.25)
    assert flat.positions_px[learned, 1].max() < flat.positions_px[judged, 1].min()


def test_what_cannot_be_divided(scan_and_truth):
    scan, truth = scan_and_truth
    with pytest.raises(ValueError, match=r"allowed is more than 0 and less than 1"):
        apart(scan, scan.probe, 1.0)
    with pytest.raises(ValueError, match=r"frames to learn from and"):
        apart(replace(scan, positions_px=scan.positions_px / 50), scan.probe, 0.3)
    narrow = np.zeros_like(truth.probe)
    narrow[:, 30:34, 30:34] = 1
    with pytest.raises(ValueError, match=r"the field to judge by has 4 x 4 px; at least 12 px are needed"):
        judging_part(scan, replace(truth, probe=narrow), np.arange(1), "a")


def test_the_part_that_judges_is_evidence_on_its_own_field(scan_and_truth):
    scan, truth = scan_and_truth
    _, judged = apart(scan, scan.probe, 0.3)
    part, of_it = judging_part(scan, truth, judged, "a (strip)")
    assert part.provenance == of_it.provenance == {"run_uid": "a (strip)", "file": "a (strip)"}
    assert set(of_it.trigger_index) == set(part.trigger_index) == set(scan.trigger_index[judged])
    assert np.all(of_it.coverage <= truth.coverage * (1 + 1e-5))
    assert 0.1 < of_it.coverage.sum() / truth.coverage.sum() < 0.5


def test_of_a_shard_the_same_frames_stay(scan_and_truth, tmp_path):
    scan, _ = scan_and_truth
    frames, n = scan.patterns.shape[:2]
    labels = np.zeros((frames, 2, n, n), np.float16)
    labels[:, 0, 0, 0] = np.arange(frames)
    order = np.random.default_rng(0).permutation(frames)  # whatever the order of the shard
    whole = LabelledScan(scan.patterns[order], labels[order], scan.probe, about={"run": "a"})
    shard = Corpus(tmp_path).add(whole)
    learned, _ = apart(scan, scan.probe, 0.3)
    part = part_of_shard(shard, scan, learned)
    assert sorted(part.labels[:, 0, 0, 0].astype(int)) == sorted(learned)
    assert part.about == {"run": "a", "part_of": shard.name}
    with pytest.raises(ValueError, match="holds none of these frames"):
        part_of_shard(shard, replace(scan, patterns=scan.patterns + np.uint16(1)), learned)
    assert rows_of(scan, learned).patterns.shape[0] == len(learned)
