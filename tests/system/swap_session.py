"""Scans before and after a refined probe is published, and what the loop hears of the edge: a process of its own."""

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from bluesky import RunEngine
from fakes import FakeDetector, FakeStage

from bluesky_ptychonn.cli.bare import BareEdge
from bluesky_ptychonn.cli.loop_parts import listen_to_edge
from bluesky_ptychonn.cli.loop_status import headline, status_of
from bluesky_ptychonn.core.model_card import PROBE
from bluesky_ptychonn.engines.registry import STARTER
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.model_store import open_model, publish, rollback, sha256_of
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan
from bluesky_ptychonn.training.loop.policy import Terms

PATIENCE_S = 30.0


def until(done) -> float:
    """Seconds until it is so."""
    begin_s = time.monotonic()
    while not done():
        assert time.monotonic() - begin_s < PATIENCE_S
        time.sleep(0.01)
    return time.monotonic() - begin_s


def refined(card, files, probe):
    """A version with a probe beside the same network."""
    buffer = io.BytesIO()
    np.save(buffer, probe)
    held = {**files, PROBE: buffer.getvalue()}
    hashes = {name: sha256_of(data) for name, data in held.items()}
    return replace(card, files=hashes, probe_sha256=hashes[PROBE]), held


def main(state: Path) -> None:
    model = open_model(STARTER)
    files = {name: (model.directory / name).read_bytes() for name in model.card.files}
    store = state / "models"
    publish(store, model.card, files)
    with BareEdge(state, "openvino", store) as running:
        from bluesky_ptychonn.devices.edge import Edge

        edge = Edge(running.settings.edge.prefix, name="edge")
        edge.arm_timeout_s.put(0.05)
        engine, docs = RunEngine(context_managers=[]), []
        journal = Journal(state / "journal.sqlite")

        def scan() -> dict:
            log: list[str] = []
            begun = len(docs)
            engine(
                spiral_ptycho_scan(
                    FakeDetector(log), FakeStage(log), width_um=1.0, step_um=0.3, exposure_s=0.001, edge=edge
                ),
                lambda name, doc: docs.append((name, doc)),
            )
            journal.note([(name, doc) for name, doc in docs[begun:] if name in ("start", "stop")])
            return docs[begun][1]

        before = scan()
        ear, acknowledgements = listen_to_edge(running.settings, journal)
        until(lambda: ear.heard is not None)
        version = publish(store, *refined(model.card, files, np.load(state / "probe.npy") * np.complex64(1j)))
        journal.move(before["uid"], "published", f"version {version} is live", published_version=version)

        def acknowledged() -> bool:
            acknowledgements.look(time.time())
            return any("the edge uses" in line.sentence for line in journal.history(before["uid"]))

        seconds = until(acknowledged)
        after = scan()
        now_s = time.time()
        status = status_of(journal, Terms(), now_s)
        rollback(store)
        until(lambda: ear.heard.version == "000001")
        back = scan()
        ear.close()
    told = {
        "versions": [start["ptycho"]["model_version"] for start in (before, after, back)],
        "edges": [start["ptycho"]["edge"] for start in (before, after, back)],
        "line": journal.history(before["uid"])[-1].sentence,
        "status": headline(status, now_s),
        "seconds": seconds,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
