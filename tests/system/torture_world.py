"""Processes of the torture: an image server that sends what it is told, an edge with a small ring, a rude client."""

import ctypes
import json
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from edge_world import DROPPED, IMAGE, PREFIX, World, flat_probe

FRAMES_S = 4000.0
"""Rate at which frames are sent."""
RING_BYTES = 192 << 10
KEPT_PATCHES = 600
ODD = {"odd": "EDGETEST:odd", "text": "EDGETEST:text", "endless": "EDGETEST:endless", "missing": "EDGETEST:missing"}
"""Channels which are not what a run message says they are."""
PLAIN = 10
DARK, SLOW, POISON = "dark", "slow", "poison"


class TortureEngine:
    """Patches that show the stamp in a pattern's first pixel; the next two pixels make it slow, or fail."""

    name, card, guess, max_batch, frame_px, patch_px = "torture", None, None, 8, 16, 8

    def set_probe(self, probe: np.ndarray) -> None:
        pass

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        if (wait_ms := int(patterns[:, 0, 1].max()) - PLAIN) > 0:
            time.sleep(1e-3 * wait_ms)
        if (patterns[:, 0, 2] > PLAIN).any():
            raise FloatingPointError("poison")
        return np.broadcast_to(patterns[:, :1, :1], (len(patterns), 8, 8)).astype(np.float32)


class TortureWorld(World):
    """Source, edge and client of the torture in a folder of theirs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(__file__, MALLOC_ARENA_MAX="2")
        self.folder = folder
        np.save(folder / "probe.npy", flat_probe(16))
        self.start("source")
        self.start("edge", str(folder / "probe.npy"))
        self.start("client")

    def restart_source(self, *, in_order: bool) -> None:
        """End the image server as an IOC ends, or by a kill, and start it again."""
        process = self._processes["source"]
        if in_order:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)
        else:
            self.kill("source")
        self.start("source")

    def edge_memory_kib(self) -> tuple[float, float]:
        """Memory of the edge that is resident, and how much of it the allocator has given out.

        What is free was given back before: else a leak would fill that first, unseen.
        """
        given_kib = self.call("edge", memory=True)
        pages = int(Path(f"/proc/{self._processes['edge'].pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1024, given_kib

    def image(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Return an image of the edge and its attributes."""
        file = self.folder / "image.npy"
        attributes = self.call("client", image=name, file=str(file))
        return np.load(file), attributes


def source() -> None:
    """Send the updates that come as JSON, one list of them at a time."""
    import pvaccess as pva

    from bluesky_ptychonn.io.ntndarray import set_frame

    server = pva.PvaServer()
    server.addRecord(IMAGE, pva.NtNdArray(), None)
    server.addRecord(DROPPED, pva.NtScalar(pva.INT, 0), None)
    server.addRecord(ODD["odd"], pva.NtScalar(pva.STRING, "odd"), None)
    server.addRecord(ODD["text"], pva.NtScalar(pva.STRING, "many"), None)
    server.addRecord(ODD["endless"], pva.NtScalar(pva.DOUBLE, float("inf")), None)
    lost = 0

    def play(items: list[list[Any]], shape: tuple[int, int], dtype: str, codec: str) -> None:
        nonlocal lost
        bright = np.full(shape, PLAIN, dtype)
        dark = np.zeros(shape, dtype)
        start, row, column = time.monotonic(), shape[0] // 2 - 8, shape[1] // 2 - 8
        image = pva.NtNdArray()
        image["dimension"] = dimensions(shape[::-1])
        update = image
        for number, item in enumerate(items):
            what, stamp, unique_id, time_s, age_s = item
            while (wait_s := start + number / FRAMES_S - time.monotonic()) > 0:
                time.sleep(wait_s)
            if number and item == items[number - 1] and what != "lost":  # sent again as it is
                server.update(IMAGE, update)
                continue
            if what == "lost":
                lost += 1
                server.update(DROPPED, pva.NtScalar(pva.INT, lost))
                continue
            if what == "odd":
                server.update(ODD["odd"], pva.NtScalar(pva.STRING, str(stamp)))
                continue
            frame = (dark if what == DARK else bright).copy()
            if what != DARK:
                frame[row, column] = stamp
            if what == SLOW:
                frame[row, column + 1] += 20
            if what == POISON:
                frame[row, column + 2] += 1
            update = image
            if what.startswith("bad "):
                update = pva.NtNdArray()
                update["dimension"] = dimensions(shape[::-1])
                spoil(update, what[4:], frame, random.Random(unique_id))
            else:
                set_frame(update, frame, codec)
            update["uniqueId"] = unique_id
            for name, seconds in (("dataTimeStamp", time_s), ("timeStamp", time.time() - age_s)):
                update[name] = {"secondsPastEpoch": int(seconds), "nanoseconds": int(seconds % 1 * 1e9), "userTag": 0}
            server.update(IMAGE, update)

    print("ready", flush=True)
    for line in sys.stdin:
        play(**json.loads(line))
        print(json.dumps("done"), flush=True)


BAD_FRAMES = (
    "short", "long", "huge", "float", "double", "bool", "empty", "garbage", "compressed", "transposed", "flat", "deep",
    "no dimension", "other dimension", "torn",
)  # fmt: skip


def dimensions(sides: Any) -> list[dict[str, Any]]:
    return [{"size": int(n), "offset": 0, "fullSize": int(n), "binning": 1, "reverse": False} for n in sides]


def spoil(update: Any, kind: str, frame: np.ndarray, rng: random.Random) -> None:
    """Make of an NTNDArray one that no detector should send."""
    from bluesky_ptychonn.io.ntndarray import set_frame

    height, width = frame.shape
    field = f"u{'short' if frame.itemsize == 2 else 'int'}Value"
    if kind in ("short", "long", "huge"):
        size = {"short": frame.size // 2, "long": 4 * frame.size, "huge": 2048 * 2048}[kind]
        update["value"] = {field: np.full(size, PLAIN, frame.dtype)}
    elif kind in ("float", "double"):
        broken = np.where(frame.ravel() == PLAIN, np.nan, 0.5)
        update["value"] = {f"{kind}Value": broken.astype({"float": "f4", "double": "f8"}[kind])}
    elif kind == "torn":
        set_frame(update, frame, rng.choice(("lz4", "blosc", "bslz4")))
        whole = update["value"][0]["ubyteValue"]
        update["value"] = {"ubyteValue": whole[: rng.randrange(len(whole))].copy()}
        update["compressedSize"] = len(update["value"][0]["ubyteValue"])
    elif kind == "bool":
        update["value"] = {"booleanValue": [bool(n) for n in frame.ravel() > PLAIN]}
    elif kind in ("garbage", "compressed"):
        rubbish = np.frombuffer(rng.randbytes(rng.choice([0, 1, 7, 12, frame.size])), np.uint8)
        update["value"] = {"ubyteValue": rubbish} if kind == "garbage" else {field: frame.ravel()}
        update["codec"] = {"name": rng.choice(["lz4", "bslz4", "blosc", "jpeg", "zlib", "?" * 300])}
        update["compressedSize"] = rng.choice([-1, 0, len(rubbish), 2**40])
        update["uncompressedSize"] = rng.choice([-1, 0, frame.nbytes, 2**40])
    elif kind != "empty":
        update["value"] = {field: frame.ravel()}
        sides = {
            "transposed": (height, width), "flat": (width * height,), "deep": (width, height, 3), "no dimension": (),
            "other dimension": (-1, 10**9),
        }  # fmt: skip
        update["dimension"] = dimensions(sides[kind])


class MallInfo(ctypes.Structure):
    """What glibc's allocator says of itself."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def edge(probe_file: str) -> None:
    """Serve with little room: a ring of few frames, and not all patches of a long run are kept."""
    from bluesky_ptychonn.edge.service import EdgeService

    kept_bytes, stop = KEPT_PATCHES * 4 * 8 * 8, threading.Event()
    service = EdgeService(PREFIX, TortureEngine(), np.load(probe_file), ring_bytes=RING_BYTES, kept_bytes=kept_bytes)

    def tell_memory() -> None:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = MallInfo
        for _ in sys.stdin:
            libc.malloc_trim(0)
            info = libc.mallinfo2()
            print(json.dumps((info.uordblks + info.hblkhd) / 1024), flush=True)
        stop.set()  # with the test

    threading.Thread(target=tell_memory, daemon=True).start()
    print("ready", flush=True)
    service.serve(stop)


def client() -> None:
    """Read the edge's channels; write to them without asking whether it fits."""
    import pvaccess as pva

    from bluesky_ptychonn.io.edge_channels import POSITIONS, RUN, pva_structure
    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel

    read = {name: PvaChannel(PREFIX + name, 3.0) for name in ("stats", "stitched", "final")}
    write = {"run": (pva.Channel(PREFIX + "run"), RUN), "positions": (pva.Channel(PREFIX + "positions"), POSITIONS)}

    def put(name: str, values: dict[str, Any], types: dict[str, str]) -> str:
        channel, structure = write[name]
        kinds = {**pva_structure(structure), **{field: getattr(pva, kind) for field, kind in types.items()}}
        channel.setTimeout(3.0)
        channel.put(pva.PvObject(kinds, {field: unpacked(value) for field, value in values.items()}))
        return "done"

    def unpacked(value: Any) -> Any:
        if isinstance(value, dict):
            return np.full(value["count"], value["of"])
        return value

    def do(what: dict[str, Any]) -> Any:
        if "put" in what:
            return put(what["put"], what["values"], what.get("types", {}))
        if "image" in what:
            image, attributes = read_image(read[what["image"]].get())
            np.save(what["file"], image)
            return attributes
        return read["stats"].get()

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
