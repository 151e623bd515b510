"""Frames of a file over pvAccess at a steady rate, and nothing else: to measure an edge without a detector IOC.

    python -m bluesky_ptychonn.simulation.bare_stream FRAMES.npy [CODEC]

CODEC is ``none`` (the default), ``lz4``, ``blosc`` or ``bslz4``. It says ``ready``, then reads one JSON object per
line, ``{"frames": N, "fps": F}``, publishes so many frames, the file over and over, and says how many it sent and how
late the latest one was. It ends with its standard input.
"""

import json
import sys
import time

import numpy as np

from bluesky_ptychonn.simulation.image_server import ImageServer
from bluesky_ptychonn.simulation.writer import Frame


def main(pool_file: str, codec: str = "none") -> None:
    """Serve until nobody asks any more."""
    pool = np.load(pool_file)
    server = ImageServer(pool.shape[1:], codec)
    server.serve()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_play(server, pool, asked["frames"], asked["fps"])), flush=True)


def _play(server: ImageServer, pool: np.ndarray, frames: int, fps: float) -> dict[str, float]:
    began_s, time_s, latest_s = time.monotonic() + 0.05, time.time(), 0.0
    for number in range(frames):
        due_s = began_s + number / fps
        while (wait_s := due_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        latest_s = max(latest_s, -wait_s)
        taken_s = time_s + number / fps
        server.publish(Frame(pool[number % len(pool)], number, taken_s, taken_s))
    return {"sent": frames, "latest_ms": round(1e3 * latest_s, 1)}


if __name__ == "__main__":
    main(*sys.argv[1:])
