"""Replay a run in an environment of databroker's: its documents or its profile, the image into a file.

python databroker_replay.py 1 RUN.jsonl IMAGE.npz
python databroker_replay.py 2 PROFILE/UID IMAGE.npz
"""

import json
import sys
import warnings

import numpy as np
from replay_world import FACE, PROBE, N


def main(version: str, source: str, image_file: str) -> None:
    import databroker

    from bluesky_ptychonn.callbacks.replay import replay
    from bluesky_ptychonn.engines.registry import open_engine

    assert databroker.__version__.startswith(version)
    run = documents_through_databroker_1(source) if version == "1" else run_of_databroker_2(source)
    image = replay(run, open_engine("lift", frame_px=N), PROBE, FACE.bad_pixels)
    np.savez(image_file, phase=image.phase, coverage=image.coverage, version=databroker.__version__)


def documents_through_databroker_1(path: str):
    from databroker.v1 import temp

    from bluesky_ptychonn.callbacks.databroker1 import ForDatabroker1

    db = temp()
    insert = ForDatabroker1(db.insert)
    with open(path) as lines:
        documents = [(entry["name"], entry["doc"]) for entry in map(json.loads, lines)]
    for name, doc in documents:
        insert(name, doc)
    return db[documents[0][1]["uid"]].documents()


def run_of_databroker_2(source: str):
    import databroker

    profile, uid = source.split("/")
    return databroker.catalog[profile]["raw"][uid]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
