"""A whole experiment of 12 scans, as `bench loop` plays it: real jobs, real corpus, real gate; about ten minutes."""

import json
from collections import Counter

import pytest

pytest.importorskip("torch")
pytest.importorskip("psij")

from bluesky_ptychonn.cli.bench_loop_scans import SCRIPT
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.io.model_store import VERSIONS, current_version, read_card
from bluesky_ptychonn.training.learning.corpus import Corpus

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

DONE = {  # scan: state, trusted, and what happened; the script says why
    1: ("validated", True, "suspends"),
    2: ("validated", True, "suspends"),
    3: ("suspended", None, "compared"),
    4: ("validated", False, "compared, alarm, not trusted"),
    5: ("suspended", None, "compared"),
    6: ("published", True, "compared, alarm, retrained"),
    7: ("validated", False, "not trusted"),
    8: ("validated", True, "suspends"),
    9: ("suspended", None, "compared"),
    11: ("validated", True, "suspends"),
    12: ("suspended", None, "compared"),
}


def test_the_loop_does_about_each_scan_what_it_should(tmp_path):
    folder, file = tmp_path / "loop", tmp_path / "loop.json"
    code = main(["bench", "loop", "--output", str(folder), "--json", str(file)])
    summary, *scans = json.loads(file.read_text())["results"]
    found = {number: (scan["state"], scan["trusted"], scan["events"]) for number, scan in enumerate(scans, 1)}
    drift = found.pop(10)
    assert found == DONE
    assert drift[:2] == ("published", True)
    assert drift[2].startswith("compared, alarm, probe")  # a training follows, of which little is asked any more
    assert (code, summary["as_expected"]) == (0, len(SCRIPT))

    # suspended and resumed for its reason
    assert "the suspension that its residual ended goes on" in scans[3]["sentence"]
    assert scans[4]["residual"] < 1.6 * scans[1]["residual"] < scans[5]["residual"]
    # mismatch, training, recovery
    assert scans[5]["mismatch"] > 0.1 > scans[7]["mismatch"]
    assert scans[9]["mismatch"] > 0.1 > scans[10]["mismatch"]
    assert scans[9]["mismatch_probe"] < scans[9]["mismatch"] - 0.1
    # bad labels kept out, good ones in once
    runs = Counter(shard.run for shard in Corpus(folder / "loop/corpus").open())
    assert runs == Counter(scan["run"] for scan in scans if scan["trusted"])
    assert scans[6]["run"] not in runs
    # versions follow each other
    versions = [scan["live_version"] for scan in scans if scan["live_version"]]
    assert versions == sorted(versions)
    assert versions[-1] == current_version(folder / "store")
    assert read_card(folder / "store" / VERSIONS / scans[5]["published_version"]).parent == "000001"
    assert (folder / "page/bench_loop/plots.png").stat().st_size > 20_000
