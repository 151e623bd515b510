"""The recorder against a real Tiled server, alive, dead and back again."""

import json
import time

import pytest
from bluesky import RunEngine
from bluesky.plans import count
from catalog_world import Server
from ophyd.sim import det

from bluesky_ptychonn.callbacks.record import TiledRecorder, ingest
from bluesky_ptychonn.io.catalog import connect

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(240)]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "catalog")
    yield server
    server.end()


def test_a_run_survives_a_killed_server(server, tmp_path, caplog):
    catalog = server.start()
    recorder = TiledRecorder(catalog, tmp_path / "backup")
    RE = RunEngine()
    RE.subscribe(recorder)
    try:
        (kept,) = RE(count([det], 3))
        assert recorder.wait(60)
        assert len(catalog[kept]["primary"].read()["det"]) == 3

        server.end(kill=True)
        start = time.monotonic()
        (lost,) = RE(count([det], 3))
        scan_s = time.monotonic() - start
        assert recorder.wait(120)
    finally:
        recorder.close()

    assert scan_s < 5  # a stalled writer would take 26 s
    (backup,) = (tmp_path / "backup").iterdir()
    assert str(backup) in caplog.text
    assert "catalog ingest" in caplog.text
    catalog = server.start()
    assert ingest(backup, catalog) == lost
    assert catalog[lost].metadata["stop"]["exit_status"] == "success"
    assert len(catalog[lost]["primary"].read()["det"]) == 3


def test_a_torn_backup_is_refused_before_anything_is_sent(tmp_path):
    whole = [{"name": "start", "doc": {"uid": "u"}}, {"name": "stop", "doc": {"run_start": "u"}}]
    torn = tmp_path / "torn.jsonl"
    torn.write_text("\n".join(map(json.dumps, whole))[:-9])
    with pytest.raises(ValueError, match="line 2: not a document"):
        ingest(torn, None)
    torn.write_text(json.dumps(whole[0]))
    with pytest.raises(ValueError, match="one whole run"):
        ingest(torn, None)


def test_a_server_that_is_down_is_named():
    with pytest.raises(ConnectionError, match=r"no Tiled server answers at .* within 1 s"):
        connect("http://127.0.0.1:9/api/v1", "key", timeout_s=1)
