"""Whether a session notes its runs for the loop is said by the settings."""

from types import SimpleNamespace

import pytest
from bluesky.plans import count
from ophyd import Signal

from bluesky_ptychonn.cli import session as module
from bluesky_ptychonn.cli.session import open_session, open_trigger
from bluesky_ptychonn.config import load_settings
from bluesky_ptychonn.io.journal import Journal


def settings_of(folder, text=""):
    file = folder / "settings.toml"
    file.write_text(f"[loop]\n{text}")
    return load_settings(file)


@pytest.fixture
def bare_session(monkeypatch):
    """A session without a beamline."""
    device = SimpleNamespace(wait_for_connection=lambda timeout: None)
    monkeypatch.setattr(module, "make_devices", lambda _: (device, device, None, None))
    monkeypatch.setattr(module, "open_recorder", lambda *_, **__: (None, lambda name, doc: None))
    monkeypatch.setattr("bluesky_ptychonn.callbacks.live.LiveImage", lambda *_: lambda name, doc: None)


@pytest.mark.parametrize("enabled", [True, False])
def test_runs_are_noted_where_the_loop_is_enabled(tmp_path, bare_session, enabled):
    settings = settings_of(tmp_path, f"enabled = {str(enabled).lower()}\n")
    session = open_session(settings, progress=False)
    (uid,) = session.RE(count([Signal(name="signal", value=1.0)]), ptycho={"step_um": 0.1})
    assert (session.trigger is not None) == enabled
    assert settings.loop.journal_file.exists() == enabled
    if enabled:
        assert session.trigger.close(30)
        assert [(row.uid, row.state) for row in Journal(tmp_path / "loop" / "journal.sqlite").scans()] == [
            (uid, "received")
        ]


def test_a_journal_on_a_network_disk_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("bluesky_ptychonn.io.durable.network_disk", lambda path: "nfs4")
    trigger = open_trigger(settings_of(tmp_path, "enabled = true\n"))
    assert "lies on a network disk (nfs4)" in caplog.text
    assert "set loop.journal to a file on a local disk" in caplog.text
    assert trigger.close(30)
