"""Models and probes changed in a stream, and harmed models offered: what is lost, and how long it stands still.

Every model is published into a store that the edge follows, as a training would do it; harmed ones are put there past
the checks of the store. A change counts when the edge says so in `stats`.
"""

import argparse
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--fps", type=float, default=1000.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long")
    parser.add_argument("--swaps", type=int, default=20, help="models published")
    parser.add_argument("--probes", type=int, default=5, help="probes changed")
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--refined", type=int, default=5, help="probes published beside the same network, and back")
    parser.add_argument("--model", type=Path, metavar="DIR", help="that is published; default: starter")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if a frame was lost, a change was not taken up, or a harmed model was."""
    from tqdm import tqdm

    from bluesky_ptychonn.cli.bare import BareEdge
    from bluesky_ptychonn.cli.bench_stream import figures_of
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.services import temporary_state
    from bluesky_ptychonn.cli.stream import stream_frames
    from bluesky_ptychonn.engines.registry import STARTER
    from bluesky_ptychonn.io.model_store import open_model, publish

    if options.json:
        refuse_unwritable("--json", options.json)
    frames = round(options.fps * options.seconds)
    with temporary_state() as state:
        model = open_model(options.model or STARTER)
        files = {name: (model.directory / name).read_bytes() for name in model.card.files}
        store = state / "models"
        publish(store, model.card, files)
        with BareEdge(state, "openvino", store) as edge, tqdm(total=frames, desc="frames", unit="frame") as bar:
            changes = _Changes(edge.settings.edge.prefix, store, state / "probe.npy", model.card, files)
            changes.plan(options.swaps, options.probes, options.rollbacks, options.refined)
            changes.start(options.seconds)
            stats = stream_frames(
                edge.settings,
                np.resize(edge.positions_um, (frames, 2)),
                options.fps,
                detector=edge.detector,
                progress=lambda count: bar.update(count - bar.n),
            )
            changes.end()
    result = {**figures_of(stats, 128, options.fps), "test": "swap", **changes.figures()}
    for name, value in result.items():
        print(f"{name:24} {value}")
    for kind, reason in changes.reasons.items():
        print(f"refused: {kind}: {reason}")
    if options.json:
        write_figures(options.json, "bench swap", conditions(seconds_asked=options.seconds), [result])
    lost = sum(result[f"frames_{name}"] for name in ("lost", "unpaired", "shed"))
    return 0 if not lost and not changes.missed and not result["outputs_unversioned"] else 1


@dataclass
class _Changes:
    """What is changed while frames come, one thing after another in a thread of its own."""

    prefix: str
    store: Path
    probe_file: Path
    card: Any
    files: dict[str, bytes]
    reasons: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    _plan: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    _done: dict[str, int] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _refined_s: list[float] = field(default_factory=list)
    _outputs: list[str] = field(default_factory=list)

    def plan(self, swaps: int, probes: int, rollbacks: int, refined: int) -> None:
        """Spread the kinds of change over each other."""
        kinds = {
            "model": [self._publish] * swaps,
            "probe": [self._new_probe] * probes,
            "rollback": [self._roll_back] * rollbacks,
            "refined": [self._refine] * refined,
            "harmed": [lambda kind=kind: self._offer(kind) for kind in HARMED],
        }
        spread = [((k + 0.5) / len(of), kind, change) for kind, of in kinds.items() for k, change in enumerate(of)]
        self._plan = [(kind, change) for _, kind, change in sorted(spread, key=lambda item: item[0])]

    def start(self, seconds: float) -> None:
        """Begin, two seconds after the stream."""
        from bluesky_ptychonn.io.pva import PvaChannel

        self._stats = PvaChannel(f"{self.prefix}stats", 3.0)
        self._images = PvaChannel(f"{self.prefix}stitched")
        self._images.monitor(self._note_output)
        period_s = max(0.1, (seconds - 4) / max(1, len(self._plan)))
        self._thread = threading.Thread(target=self._work, args=(period_s,), name="changes", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for what is under way."""
        self._thread.join(PATIENCE_S)
        self._images.close()

    def figures(self) -> dict[str, Any]:
        """Counts of each kind of change, and how long they took to be in use."""
        counted = {f"changes_{kind}": self._done.get(kind, 0) for kind in ("model", "probe", "rollback", "refined")}
        return {
            **counted,
            "models_refused": len(self.reasons),
            "changes_missed": len(self.missed),
            "seconds_to_use": round(float(np.median(self._seconds)), 2) if self._seconds else None,
            "seconds_to_use_refined": round(float(np.median(self._refined_s)), 2) if self._refined_s else None,
            "outputs": len(self._outputs),
            "outputs_unversioned": sum(not version for version in self._outputs),
        }

    def _work(self, period_s: float) -> None:
        begin_s = time.monotonic() + 2
        for number, (kind, change) in enumerate(self._plan):
            time.sleep(max(0.0, begin_s + number * period_s - time.monotonic()))
            try:
                change()
                self._done[kind] = self._done.get(kind, 0) + 1
            except TimeoutError as error:
                self.missed.append(f"{kind}: {error}")

    def _note_output(self, update: Any) -> None:
        if not update.getSelectedUnionFieldName():  # before the first image
            return
        names = {item["name"]: item["value"] for item in update["attribute"]}
        found = names.get("model_version")
        self._outputs.append(str(found[0]["value"] if found else ""))

    def _until(self, done: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        begin_s = time.monotonic()
        while not done(now := self._stats.get()):
            if time.monotonic() - begin_s > PATIENCE_S:
                raise TimeoutError(f"{what} within {PATIENCE_S:g} s; stats say {now['message']!r}")
            time.sleep(0.02)
        return now

    def _publish(self) -> None:
        from bluesky_ptychonn.io.model_store import publish

        begin_s = time.monotonic()
        version = publish(self.store, self.card, _another_network(self.card, self.files))
        self._until(lambda now: now["model_version"] == version, f"model {version} is not in use")
        self._seconds.append(time.monotonic() - begin_s)

    def _roll_back(self) -> None:
        from bluesky_ptychonn.io.model_store import rollback

        version = rollback(self.store)
        self._until(lambda now: now["model_version"] == version, f"{version} is not in use again")

    def _new_probe(self) -> None:
        """The same probe with another power: its shape is what the frames have."""
        begun = self._stats.get()["probe_swaps"]
        np.save(self.probe_file, np.load(self.probe_file) * np.float32(1.5))
        self._until(lambda now: now["probe_swaps"] > begun, "the new probe is not in use")

    def _refine(self) -> None:
        """A probe beside the same network, as the loop publishes it after a scan; then back to that of the settings."""
        from bluesky_ptychonn.io.model_store import publish

        begun, begin_s = self._stats.get()["probe_swaps"], time.monotonic()
        version = publish(self.store, *_with_probe(self.card, self.files, np.load(self.probe_file) * np.complex64(1j)))
        self._until(
            lambda now: now["model_version"] == version and now["probe_swaps"] > begun, f"probe {version} is not in use"
        )
        self._refined_s.append(time.monotonic() - begin_s)
        self._roll_back()

    def _offer(self, kind: str) -> None:
        from bluesky_ptychonn.io.durable import replace_file
        from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, current_version, publish

        before, begun = current_version(self.store), self._stats.get()["models_refused"]
        card, files = HARMED[kind](self.card, self.files)
        name = publish(self.store, card, files, make_current=False)
        if kind in SPOILED_ON_DISK:
            SPOILED_ON_DISK[kind](self.store / VERSIONS / name)
        replace_file(self.store / CURRENT, f"{name}\n".encode())
        try:
            self.reasons[kind] = self._until(
                lambda now: now["models_refused"] > begun and now["message"], f"the {kind} is not refused"
            )["message"]
        finally:
            replace_file(self.store / CURRENT, f"{before}\n".encode())
            shutil.rmtree(self.store / VERSIONS / name)


def _another_network(card: Any, files: dict[str, bytes]) -> dict[str, bytes]:
    """The same network under another hash, as every training gives: an edge has to compile it."""
    import onnx

    graph = onnx.load_from_string(files[card.graph_file])
    graph.doc_string = str(time.time_ns())
    return {**files, card.graph_file: graph.SerializeToString()}


def _with_probe(card: Any, files: dict[str, bytes], probe: np.ndarray) -> tuple[Any, dict[str, bytes]]:
    import io

    from bluesky_ptychonn.core.model_card import PROBE
    from bluesky_ptychonn.io.model_store import sha256_of

    buffer = io.BytesIO()
    np.save(buffer, probe)
    held = {**files, PROBE: buffer.getvalue()}
    hashes = {name: sha256_of(data) for name, data in held.items()}
    return replace(card, files=hashes, probe_sha256=hashes[PROBE]), held


def _dark_probe(card: Any, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    return _with_probe(card, files, np.zeros((card.frame_px, card.frame_px), np.complex64))


def _whole(card: Any, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    return card, files


def _wrong_shape(card: Any, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    return replace(card, patch_px=card.patch_px - 16), files


def _without_numbers(card: Any, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    """Weights that are not a number."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(files[card.graph_file])
    for weight in graph.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype.kind == "f":
            weight.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), weight.name))
    return card, {**files, card.graph_file: graph.SerializeToString()}


def _other_golden(card: Any, files: dict[str, bytes]) -> tuple[Any, dict[str, bytes]]:
    """A golden pair of another network."""
    import io

    with np.load(io.BytesIO(files[card.golden_file])) as golden:
        parts = dict(golden)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**parts, "patches_rad": -parts["patches_rad"]})
    return card, {**files, card.golden_file: buffer.getvalue()}


HARMED: dict[str, Callable[[Any, dict[str, bytes]], tuple[Any, dict[str, bytes]]]] = {
    "torn file": _whole,
    "wrong hash": _whole,
    "wrong shape": _wrong_shape,
    "NaN weights": _without_numbers,
    "golden pair off": _other_golden,
    "dark probe": _dark_probe,
}


def _tear(folder: Path) -> None:
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])


def _change_a_byte(folder: Path) -> None:
    graph = folder / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)


SPOILED_ON_DISK = {"torn file": _tear, "wrong hash": _change_a_byte}
