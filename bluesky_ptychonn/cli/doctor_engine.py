"""Open the engine of the settings and infer a few batches: in a process of its own, which the doctor can end.

`python -m bluesky_ptychonn.cli.doctor_engine ENGINE MODEL BATCH FRAME_PX` prints what came of it as a line of JSON.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bluesky_ptychonn.config import EdgeSettings

BATCHES = 5


def try_engine(edge: EdgeSettings, frame_px: int, timeout_s: float) -> dict:
    """Try an engine in another process.

    Returns
    -------
    dict
        ``engine``, ``version`` and ``us_per_frame``, or ``error``; ``late`` if it was ended.
    """
    command = [sys.executable, "-m", __name__, edge.engine, str(edge.model or ""), str(edge.batch), str(frame_px)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"late": True}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return {"error": f"its process ended with {done.returncode}: {last}"}


def main(name: str, model: str, batch: str, frame_px: str) -> None:
    """Open it, time it, print."""
    from bluesky_ptychonn.core.protocols import EngineMismatch, EngineUnavailable, GraphUnsupported
    from bluesky_ptychonn.engines.registry import open_engine

    try:
        engine = open_engine(name, Path(model) if model else None, max_batch=int(batch), frame_px=int(frame_px))
        n = engine.frame_px
        spot = np.zeros((n, n), np.complex64)
        spot[n // 2 - 8 : n // 2 + 8, n // 2 - 8 : n // 2 + 8] = 1
        engine.set_probe(spot)
        patterns = np.random.default_rng(0).poisson(2.0, (engine.max_batch, n, n)).astype(np.uint16)
        times_s = []
        for _ in range(BATCHES):
            began_s = time.perf_counter()
            engine.infer(patterns)
            times_s.append(time.perf_counter() - began_s)
    except (
        ImportError,
        OSError,
        ValueError,
        RuntimeError,
        EngineMismatch,
        EngineUnavailable,
        GraphUnsupported,
    ) as error:
        print(json.dumps({"error": str(error), "module": getattr(error, "name", None) or ""}))
        return
    version = engine.card.version if engine.card else ""
    us_per_frame = 1e6 * float(np.median(times_s)) / len(patterns)
    print(json.dumps({"engine": engine.name, "version": version, "us_per_frame": us_per_frame}))


if __name__ == "__main__":
    main(*sys.argv[1:])
