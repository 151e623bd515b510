import shlex
from pathlib import Path

import pytest

from bluesky_ptychonn.cli.gather import consumer_command
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import Settings

EDGE = Path(__file__).parents[2] / "docs" / "edge.md"


def test_the_documentation_shows_the_command_that_the_gatherer_says():
    shown = [line.strip() for line in EDGE.read_text().splitlines() if line.startswith("    pvapy-hpc-consumer")]
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
