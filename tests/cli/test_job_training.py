"""The job of a training: planned once, learned, made into a model, offered once."""

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from tiny_jobs import copy_of, job, killed_at, told
from tiny_loop import NETWORK, QUICK, TinyLoop

from bluesky_ptychonn.callbacks.loop_news import line_of
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.model_card import PROBE
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.model_probe import probe_of
from bluesky_ptychonn.io.model_store import current_version, open_model, read_decision, refused, versions
from bluesky_ptychonn.training.learning.checkpoint import read_checkpoint
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.desk import FolderDesk
from bluesky_ptychonn.training.loop.patience import Patience
from bluesky_ptychonn.training.loop.policy import Terms
from bluesky_ptychonn.training.loop.runner import make_runner
from bluesky_ptychonn.training.loop.service import LoopService

FAST = {"recipe_changes": {"high_rate": 3e-3, "bf16": False}}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A loop with two scans, and a training of them."""
    loop = TinyLoop(tmp_path_factory.mktemp("learned"))
    for key, seed in (("a", 1), ("b", 2)):
        assert job(loop.scan(key, seed)) == 0
    assert job(loop.prepare("train", "t1", epochs=20, **FAST)) == 0
    return loop


@pytest.fixture
def loop(learned, tmp_path):
    """A copy of it of one's own."""
    return copy_of(learned, tmp_path)


def test_what_was_learned_goes_live_with_the_probe_of_the_newest_scan(learned):
    found = jobs.result(learned.directory / "jobs/train-t1")
    assert found["published"], found["reason"]
    assert found["version"] == current_version(learned.store) == "000002"
    assert found["started_from"] == "version 000001"
    assert found["judged_by"] == [{"run": "b", "share": 0.25}, {"run": "a", "share": 0.25}]
    assert found["mismatch_after"] < found["mismatch_before"] - 0.02
    assert found["learned_runs"] == ["a", "b"]
    assert found["snapshot"] == [shard.name for shard in Corpus(learned.directory / "corpus").open()]
    model = open_model(learned.store)
    card = model.card
    assert (card.frame_px, card.patch_px, card.parent) == (32, 32, "000001")
    assert card.training["learned_runs"] == ["a", "b"]
    assert card.training["job"] == "train-t1"
    np.testing.assert_array_equal(probe_of(model), np.load(learned.directory / "jobs/scan-b" / PROBE))


def test_what_judges_is_not_learned_from(learned):
    """No frame of the strip, and none that has light in common with it."""
    plan = json.loads((learned.directory / "jobs/train-t1/learning.json").read_text())
    for folder in plan["shards"]:
        part = json.loads((Path(folder) / "manifest.json").read_text())
        whole = next(
            shard for shard in Corpus(learned.directory / "corpus").open() if shard.run == part["about"]["run"]
        )
        assert part["about"]["part_of"] == whole.name
        assert 8 <= part["frames"] <= 0.6 * whole.frames


def test_the_scan_that_asked_judges_first_and_gives_its_probe(loop):
    folder = loop.prepare("train", "t2", epochs=1, runs=["a"], **FAST)
    killed_at(folder, "made")
    assert [judge["run"] for judge in json.loads((folder / "learning.json").read_text())["judges"]] == ["a", "b"]
    np.testing.assert_array_equal(np.load(folder / "candidate" / PROBE), np.load(folder.parent / "scan-a" / PROBE))


def test_killed_after_every_step_it_learns_once_and_offers_once(loop):
    folder = loop.prepare("train", "t2", epochs=1, **FAST)
    killed_at(folder, "planned")
    shutil.copytree(next((loop.directory / "corpus/shards").iterdir()), loop.directory / "corpus/shards" / (16 * "0"))
    killed_at(folder, "learned")  # the plan holds, whatever the corpus has become
    trained = (folder / "training/checkpoint.pt").stat().st_mtime_ns
    killed_at(folder, "made")
    killed_at(folder, "offered")
    offered = versions(loop.store), refused(loop.store)
    assert len(offered[0]) + len(offered[1]) == 3
    assert job(folder) == 0
    assert (versions(loop.store), refused(loop.store)) == offered
    assert jobs.result(folder)["published"] == (len(offered[0]) == 3)
    assert (folder / "training/checkpoint.pt").stat().st_mtime_ns == trained


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_told_to_make_room_it_goes_on_from_its_checkpoint(loop, number):
    folder = loop.prepare("train", "t2", epochs=300, **FAST)
    assert told(folder, number, "training/figures.json") == jobs.PREEMPTED
    assert jobs.result(folder) is None
    before = read_checkpoint(folder / "training")
    assert 0 < before["step"] < before["total"]
    plan = json.loads((folder / "learning.json").read_text())
    total = before["step"] + 4 + before["step"] % 2
    (folder / "learning.json").write_text(json.dumps({**plan, "epochs": total // 2}))  # two steps each
    assert job(folder) == 0
    assert read_checkpoint(folder / "training")["step"] == total
    assert [attempt.exit_status for attempt in jobs.attempts(folder)] == [75, 0]


def poisoned_corpus(loop, rng):
    """The corpus of a loop with the labels of each scan shuffled among its frames."""
    poisoned = Corpus(loop.folder / "poisoned")
    for shard in Corpus(loop.directory / "corpus").open():
        labels = np.asarray(shard.labels)[rng.permutation(shard.frames)]
        about = dict(shard.manifest["about"])
        poisoned.add(LabelledScan(np.asarray(shard.patterns), labels, np.asarray(shard.probe), about=about))
    return str(poisoned.directory)


def test_a_poisoned_corpus_never_goes_live(loop, rng):
    folder = loop.prepare("train", "t2", epochs=8, **{**FAST, "corpus": poisoned_corpus(loop, rng)})
    assert job(folder) == 0
    found = jobs.result(folder)
    assert not found["published"]
    assert "is asked" in found["reason"] or "is allowed" in found["reason"]
    assert current_version(loop.store) == "000002"
    assert len(refused(loop.store)) == 1


@pytest.mark.system
def test_a_poisoned_corpus_is_refused_by_the_loop_and_the_user_told_why(loop, rng, capsys):
    pytest.importorskip("psij")
    options = {**QUICK, **FAST, "store": str(loop.store), "corpus": poisoned_corpus(loop, rng), "epochs": 8}
    desk = FolderDesk(loop.directory, make_runner("local"), options={"train": options})
    journal = Journal(loop.directory / "journal.sqlite")
    service = LoopService(journal, desk, Terms(), Patience())
    journal.note_start({"uid": "b", "time": time.time(), "scan_id": 7, "ptycho": {}})
    journal.note_stop({"run_start": "b", "time": time.time(), "exit_status": "success"})
    journal.move("b", "training", "mismatch 0.4 is 0.1 or more", trusted=True, mismatch=0.4, live_version="000002")
    end_s = time.monotonic() + 150
    while journal.scan("b").state == "training" and time.monotonic() < end_s:
        service.tick(time.time())
        time.sleep(0.2)
    row = journal.scan("b")
    (training,) = journal.trainings()
    assert (row.state, row.published_version, training.state) == ("validated", "", "refused")
    assert current_version(loop.store) == "000002"
    (number,) = refused(loop.store)
    reason = read_decision(loop.store / "refused" / number)["reason"]
    assert "is asked" in reason or "is allowed" in reason
    assert jobs.result(jobs.named_directory(loop.directory, "train", training.key))["reason"] == reason
    settings = loop.folder / "settings.toml"
    settings.write_text(f'[loop]\ndirectory = "{loop.directory}"\n')
    for asked in (["show", "b"], ["show", training.key], ["status"]):
        with pytest.MonkeyPatch.context() as here:
            here.setenv("COLUMNS", "400")  # else the table is cut where the terminal ends
            assert main(["loop", *asked, "--settings", str(settings)]) == 0
        assert reason in capsys.readouterr().out
    assert line_of(row) == f"loop: scan 7 validated: the retrained model was refused: {reason}"


@pytest.mark.soak
def test_two_processes_learn_together(loop):
    folder = loop.prepare("train", "t2", epochs=2, ranks=2, launcher="torchrun", **FAST)
    assert job(folder) == 0
    assert jobs.result(folder)["steps"] == 4
    figures = json.loads((folder / "training/figures.json").read_text())
    assert figures["conditions"]["processes"] == 2


def test_with_nothing_live_it_learns_from_scratch(loop):
    shutil.rmtree(loop.store)
    folder = loop.prepare("train", "t2", epochs=1, configuration=NETWORK, held_out=["b"], share=1, **FAST)
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (found["published"], found["version"], found["started_from"]) == (True, "000001", "scratch")
    assert found["learned_runs"] == ["a"]
    card = open_model(loop.store).card
    assert card.pixel_size_um == pytest.approx(0.01162, rel=1e-3)
    assert card.energy_kev == 10.0


def test_the_only_scan_does_not_judge_if_it_cannot_be_divided(loop):
    shards = [shard.name for shard in Corpus(loop.directory / "corpus").open() if shard.run == "a"]
    folder = loop.prepare("train", "t2", epochs=1, snapshot=shards, share=0.9, **FAST)
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (found["judged_by"], found["published"]) == ([], False)
    assert "there is no held-out scan" in found["reason"]


WRONG = [
    ({"corpus": "/nowhere"}, "/nowhere holds no shards"),
    ({"recipe": "soup"}, "recipe = 'soup'; allowed is one of robust"),
    ({"ranks": 2}, "ranks = 2 needs a launcher"),
    ({"launcher": "rocket"}, "launcher = 'rocket'; allowed is one of srun"),
    ({"held_out": ["z"]}, "run z was not reconstructed by this loop"),
    ({"snapshot": ["00"]}, "no shard 00"),
    ({"start": "/nowhere"}, "/nowhere"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_wrong_with_a_training_is_in_the_marker(loop, options, message):
    folder = loop.prepare("train", "t2", **{"epochs": 1, **FAST, **options})
    assert job(folder) == 1
    assert message in jobs.result(folder)["reason"]
    assert current_version(loop.store) == "000002"


def test_the_network_of_a_version_is_the_one_that_was_trained(learned):
    from bluesky_ptychonn.training.learning.checkpoint import trained_network
    from bluesky_ptychonn.training.learning.warm import network_of

    network, about = network_of(open_model(learned.store))
    trained, state = trained_network(learned.directory / "jobs/train-t1/training")
    assert about["configuration"] == state["configuration"]
    for name, values in trained.state_dict().items():
        np.testing.assert_array_equal(network.state_dict()[name].numpy(), values.numpy())


def test_what_was_not_trained_here_is_not_learned_on(learned):
    from bluesky_ptychonn.training.learning.warm import network_of

    model = open_model(learned.store)
    with pytest.raises(ValueError, match="names no network"):
        network_of(replace(model, card=replace(model.card, training={})))
