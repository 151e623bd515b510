"""Recorders: what they wait for, and files that stand in for a catalog."""

import json
import threading

import numpy as np
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

from bluesky_ptychonn.callbacks.record import FileRecorder


def test_a_file_per_run_in_the_form_of_a_backup(tmp_path):
    recorder = FileRecorder(tmp_path / "backup")
    RE = RunEngine()
    RE.subscribe(recorder)
    uids = [RE(count([det], 2), energy_kev=np.float64(number))[0] for number in range(2)]
    assert recorder.wait(10)
    recorder.close()

    for number, uid in enumerate(uids):
        lines = (tmp_path / "backup" / f"{uid.split('-')[0]}.jsonl").read_text().splitlines()
        documents = [json.loads(line) for line in lines]
        names = [document["name"] for document in documents]
        assert names == ["start", "descriptor", "event_page", "event_page", "stop"]
        assert (documents[0]["doc"]["uid"], documents[0]["doc"]["energy_kev"]) == (uid, number)


def test_a_late_stop_of_the_run_before_does_not_end_the_wait(tmp_path):
    permits = {uid: threading.Event() for uid in ("first", "second")}

    class Slow(FileRecorder):
        def _write(self, name, doc):
            if name == "stop":
                permits[doc["run_start"]].wait(10)

    recorder = Slow(tmp_path)
    try:
        for uid in permits:
            recorder("start", {"uid": uid})
            recorder("stop", {"run_start": uid})
        permits["first"].set()
        assert not recorder.wait(0.3)
        permits["second"].set()
        assert recorder.wait(10)
    finally:
        recorder.close()
