"""An image source, an edge and a client, each in a process of its own with one EPICS environment."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGE, DROPPED, PREFIX = "EDGETEST:image", "EDGETEST:dropped", "edgetest:"
STAMP = (0, 0)


class StampEngine:
    """Patches that say which frame they are: the number in the pattern's first pixel."""

    name, card, max_batch, frame_px, patch_px = "stamp", None, 8, 16, 8

    def set_probe(self, probe: np.ndarray) -> None:
        pass

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        return np.broadcast_to(patterns[:, :1, :1], (len(patterns), 8, 8)).astype(np.float32)


class HurriedEngine(StampEngine):
    """Too slow for its frames: some are guessed, as the negative number."""

    max_batch = 2

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        time.sleep(0.006)
        return super().infer(patterns)

    def guess(self, patterns: np.ndarray) -> np.ndarray:
        return -super().infer(patterns)


def flat_probe(frame_px: int) -> np.ndarray:
    """Return a probe that weighs all pixels of the middle half of its field alike."""
    return np.pad(np.ones((frame_px // 2, frame_px // 2), np.complex64), frame_px // 4)


class World:
    """Processes of one test; ends them by their ids.

    Parameters
    ----------
    script : str
        File which plays the roles.
    **environment : str
        More variables of theirs.
    """

    def __init__(self, script: str = __file__, **environment: str) -> None:
        self._script = script
        search = str(random.randint(20_000, 30_000))
        self._env = {
            **os.environ,
            "EPICS_PVA_ADDR_LIST": "127.0.0.1",
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_PVA_BROADCAST_PORT": search,
            "EPICS_PVAS_BROADCAST_PORT": search,
            "EPICS_PVA_SERVER_PORT": "0",
            "EPICS_PVAS_SERVER_PORT": "0",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, role: str, *arguments: str) -> None:
        """Start a role, or start it again, and wait until it is there."""
        process = subprocess.Popen(
            [sys.executable, self._script, role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
        )
        self._processes[role] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def call(self, role: str, **what: Any) -> Any:
        """Ask a role to do something; wait for its answer."""
        self.send(role, **what)
        return self.answer(role)

    def send(self, role: str, **what: Any) -> None:
        pipe = self._processes[role].stdin
        assert pipe is not None
        pipe.write(json.dumps(what) + "\n")
        pipe.flush()

    def answer(self, role: str) -> Any:
        pipe = self._processes[role].stdout
        assert pipe is not None
        answer = json.loads(pipe.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def kill(self, role: str) -> None:
        self._processes[role].kill()
        self._processes[role].wait(10)

    def terminate(self, role: str) -> int:
        self._processes[role].terminate()
        return self._processes[role].wait(10)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def stats(self) -> dict[str, Any]:
        return self.call("client", get="stats")

    def until(self, timeout_s: float = 20, **wanted: Any) -> dict[str, Any]:
        """Wait until the stats say so; return them."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                stats = self.stats()
            except RuntimeError as error:
                stats = {"error": str(error)}
            if all(stats.get(key) == value for key, value in wanted.items()):
                return stats
            if time.monotonic() > end_s:
                raise TimeoutError(f"not {wanted} within {timeout_s} s, but {stats}")
            time.sleep(0.02)


def source(pool_file: str) -> None:
    """Publish a series of frames: ids, times and losses as an Eiger's driver makes them."""
    import pvaccess

    pool = np.load(pool_file)
    height, width = pool.shape[1:]
    server = pvaccess.PvaServer()
    server.addRecord(IMAGE, pvaccess.NtNdArray(), None)
    server.addRecord(DROPPED, pvaccess.NtScalar(pvaccess.INT, 0), None)
    image = pvaccess.NtNdArray()
    image["dimension"] = [
        {"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in (width, height)
    ]
    lost, stop = 0, threading.Event()

    def play(
        frames: int, fps: float, fates: dict[str, str], offset: int, stamped: bool, first_id: int
    ) -> dict[str, int]:
        nonlocal lost
        began_s, unique_id, counts = time.monotonic() + 0.02, first_id, dict.fromkeys(("detector", "plugin"), 0)
        for slot in range(frames):
            if stop.is_set():
                return {"triggered": slot, **counts}
            while (wait_s := began_s + slot / fps - time.monotonic()) > 0:
                time.sleep(wait_s)
            fate = fates.get(str(slot), "ok")
            if fate in counts:
                counts[fate] += 1
            if fate == "detector":
                lost += 1
                server.update(DROPPED, pvaccess.NtScalar(pvaccess.INT, lost))
            if fate in ("detector", "unsent"):
                continue
            if fate == "ok":
                frame = pool[slot % len(pool)]
                if stamped:
                    frame = frame.copy()
                    frame[STAMP] = slot + offset
                image["uniqueId"] = unique_id
                image["value"] = {"ushortValue": frame.ravel()}
                for name, time_s in (("dataTimeStamp", 5e5 + offset + slot / fps), ("timeStamp", time.time())):
                    image[name] = {
                        "secondsPastEpoch": int(time_s),
                        "nanoseconds": int(time_s % 1 * 1e9),
                        "userTag": 0,
                    }
                server.update(IMAGE, image)
            unique_id += 1
        return {"triggered": frames, **counts}

    thread = threading.Thread()

    def run(what: dict[str, Any]) -> None:
        print(json.dumps(play(**what)), flush=True)

    print("ready", flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        if what.pop("stop", False):
            stop.set()
            continue
        if thread.is_alive():
            thread.join()
        stop.clear()
        thread = threading.Thread(target=run, args=(what,), daemon=True)
        thread.start()


def edge(engine_name: str, probe_file: str) -> None:
    """Serve with an engine for tests, or a real one."""
    from bluesky_ptychonn.edge.serving import serve
    from bluesky_ptychonn.engines.registry import open_engine

    fakes = {"stamp": StampEngine, "hurried": HurriedEngine}
    engine = fakes[engine_name]() if engine_name in fakes else open_engine(engine_name)
    serve(PREFIX, engine, np.load(probe_file), on_ready=lambda: print("ready", flush=True))


def client() -> None:
    """Read and write the edge's channels."""
    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel
    from bluesky_ptychonn.view.window import save_picture

    channels = {name: PvaChannel(PREFIX + name, 3.0) for name in ("run", "positions", "stats", "stitched", "final")}

    def do(what: dict[str, Any]) -> Any:
        if "put" in what:
            channels[what["put"]].put(what["values"])
            return "done"
        if "image" in what:
            image, attributes = read_image(channels[what["image"]].get())
            np.save(what["file"], image)
            return attributes
        if "picture" in what:
            save_picture(PREFIX, Path(what["picture"]))
            return "saved"
        return channels[what["get"]].get()

    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = do(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=np.ndarray.tolist), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"source": source, "edge": edge, "client": client}[sys.argv[1]](*sys.argv[2:])
