import shlex
from pathlib import Path

import numpy as np
import pytest

from bluesky_ptychonn.cli.gather import consumer_command, probe_for
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import Settings
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.io.model_probe import give_probe
from bluesky_ptychonn.io.model_store import publish, sha256_of

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "processes.md"


def test_the_documentation_shows_the_command_that_the_gatherer_says():
    shown = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("pvapy-hpc-consumer")]
    assert [shlex.split(line) for line in shown] == [consumer_command(Settings(), 4, "beamline.toml")]


def test_one_consumer_gets_every_frame():
    assert not [word for word in consumer_command(Settings(), 1) if "distributor" in word]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--consumers", "0"], "--consumers 0; allowed is 1 to 64"),
        (["--consumers", "2"], "the settings name no probe; set probe.file"),
    ],
)
def test_what_cannot_be_gathered_is_told(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    assert main(["gather", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_gatherer_gives_the_probe_of_the_model_that_its_consumers_have(tmp_path):
    np.save(tmp_path / "probe.npy", np.full((128, 128), 2, np.complex64))
    files = {"model.onnx": b"a network", "golden.npz": b"a pair"}
    card = ModelCard("x", "1", {name: sha256_of(data) for name, data in files.items()}, 128, 96, None, None)
    publish(tmp_path / "store", card, files)
    folder = tmp_path / "candidate"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    refined = give_probe(folder, card, np.full((128, 128), 3, np.complex64))
    publish(tmp_path / "store", refined, {name: (folder / name).read_bytes() for name in refined.files})
    settings = Settings.model_validate(
        {"edge": {"model": tmp_path / "store"}, "probe": {"file": tmp_path / "probe.npy"}}
    )

    def given(version, sha256=card.sha256):
        return probe_for(settings, version, sha256)[0, 0].real

    assert [given("000001"), given("000002"), given("")] == [2, 3, 2]
    assert given("000002", 64 * "0") == 2, "a version of another store"
    assert given("000003") == 2
