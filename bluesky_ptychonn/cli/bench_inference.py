"""Engines measured alone: what a frame costs, with preparation and copies and without, in batches of any size."""

import argparse
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.protocols import Engine, EngineMismatch, EngineUnavailable
from bluesky_ptychonn.engines.registry import AUTO, PACKAGED

REFERENCES = ("ptychonn", "ptychonn2")
"""Networks of the paper, measured with weights as they are drawn: trained ones take as long."""
OWN = "ptychonn-lift"
"""Measured as the starter model."""
BATCHES = (1, 2, 4, 8, 16, 32)
RUNS, WARM_UP = 50, 5
FRAME_PX = 128
LARGEST_BATCH = 65_536
LIBRARIES = ("numpy", "openvino", "onnxruntime", "torch", "tensorrt")
COLUMNS = {"batch": 5, "us/frame": 9, "+-": 7, "networks alone": 14, "+- ": 7, "frames/s": 9}
"""What the table shows, and how wide."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--engine", nargs="+", choices=("auto", *AUTO), default=AUTO, help="default: all that open")
    parser.add_argument("--model", nargs="+", default=[], metavar="DIR", help="models, starter or large among them")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=(*REFERENCES, OWN),
        help=f"those of the paper, untrained, or {OWN}, which is the starter; default: all, with --model none",
    )
    every = ",".join(map(str, BATCHES))
    parser.add_argument("--batches", type=_batches, default=BATCHES, metavar="B,B,...", help=f"default: {every}")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each batch; default: {RUNS}")
    parser.add_argument("--threads", type=int, default=1, help="of the engines on the CPU; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or not all(1 <= size <= LARGEST_BATCH for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: give sizes of 1 to {LARGEST_BATCH} patterns, such as 1,8,32")
    return sizes


def run(options: argparse.Namespace) -> int:
    """Measure every model in every engine; 1 if nothing could be measured."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    for name, low, high in (("runs", 2, 100_000), ("threads", 1, 1024)):
        if not low <= getattr(options, name) <= high:
            raise ValueError(f"--{name} {getattr(options, name)}: allowed is {low} to {high}")
    if options.json:
        refuse_unwritable("--json", options.json)
    measured_under = conditions(
        processor=processor(), gpus=gpus(), libraries=libraries(), threads=options.threads, runs=options.runs
    )
    print("\n".join(f"{name}: {value}" for name, value in measured_under.items()))
    results: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for model, directory in _models(options, Path(folder)):
                for engine in options.engine:
                    results += _table(engine, model, directory, options)
    finally:
        if options.json and results:
            write_figures(options.json, "bench inference", measured_under, results)
    return 0 if any(result["us_per_frame_mean"] for result in results) else 1


def _models(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path | str]]:
    """Names of models, and their folders, or why they cannot be had."""
    networks = options.networks or (() if options.model else (*REFERENCES, OWN))
    for network in networks:
        if network == OWN:
            yield network, PACKAGED["starter"]
            continue
        try:
            yield network, untrained(network, folder / network)
        except ImportError as error:
            yield (
                network,
                f"{error.name} is needed to make the untrained network ({error}): pip install "
                f"'bluesky-ptychonn[training]', or give --networks {OWN}",
            )
    for name in options.model:
        yield name, PACKAGED.get(name, Path(name))


def untrained(network: str, folder: Path) -> Path:
    """Make a model of an untrained reference network.

    Raises
    ------
    ImportError
        If torch or onnx is not installed.
    """
    import torch

    from bluesky_ptychonn.training.learning.export import write_model
    from bluesky_ptychonn.training.learning.graphs import Chain, onnx_graph, parts_of
    from bluesky_ptychonn.training.learning.networks import build_network

    torch.manual_seed(0)
    example = np.ones((2, 1, FRAME_PX, FRAME_PX), np.float32)
    chain = Chain("counts", [onnx_graph(part, example) for part in parts_of(build_network(network))], FRAME_PX)
    about = {"name": network, "version": "untrained", "pixel_size_um": None, "energy_kev": None}
    write_model(folder, chain, frame_px=FRAME_PX, reference_counts=None, **about)
    return folder


def _table(name: str, model: str, directory: Path | str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure one model in one engine, and show each batch."""
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.model_store import open_model

    shown = False
    for batch in options.batches:
        about = {"test": "inference", "model": model, "engine": name, "batch": batch, "dtype": None}
        try:
            if isinstance(directory, str):
                raise EngineUnavailable(directory)
            engine = open_engine(name, directory, max_batch=batch, threads=options.threads)
        except (ImportError, EngineUnavailable, EngineMismatch) as error:
            print(f"\n{model}, engine {name}: skipped: {error}", flush=True)
            yield {**about, **_figures(None, True), "skipped": str(error)}
            return
        about |= {"engine": engine.name, "dtype": getattr(engine, "dtype", None)}
        if not shown:
            shown = True
            print(f"\n{model}, engine {about['engine']}, {about['dtype']}")
            print("  ".join(text.rjust(width) for text, width in COLUMNS.items()))
        with np.load(open_model(directory).golden_path, allow_pickle=False) as golden:
            patterns, probe = golden["patterns"], golden["probe"]
        engine.set_probe(probe)
        whole, alone = measure(engine, np.resize(patterns, (batch, *patterns.shape[1:])), options.runs)
        figures = [{**about, **_figures(whole, True)}, {**about, **_figures(alone, False)}]
        print(_row(batch, *figures), flush=True)
        yield from figures


def measure(engine: Engine, patterns: np.ndarray, runs: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Time of a batch, us per frame (runs,): all of it, and that of the networks alone where the engine can tell."""
    from bluesky_ptychonn.engines.steps import StepsEngine

    works: list[Callable[[], object]] = [lambda: engine.infer(patterns)]
    if isinstance(engine, StepsEngine) and engine.networks_apart:
        works.append(engine.run_networks)
    whole, *alone = times_us(works, runs) / len(patterns)
    return whole, alone[0] if alone else None


def times_us(works: Sequence[Callable[[], object]], runs: int) -> np.ndarray:
    """Time of each run of each work (works, runs), us: in turns, after some that do not count."""
    begun_ns = np.empty((runs + WARM_UP, len(works) + 1), np.int64)
    for run in begun_ns:
        for k, work in enumerate(works):
            run[k] = time.perf_counter_ns()
            work()
        run[-1] = time.perf_counter_ns()
    return np.diff(begun_ns, axis=1)[WARM_UP:].T / 1e3


def _figures(times_us: np.ndarray | None, whole: bool) -> dict[str, Any]:
    mean, std, fps = (None,) * 3 if times_us is None else (times_us.mean(), times_us.std(ddof=1), 1e6 / times_us.mean())
    values = {"us_per_frame_mean": mean, "us_per_frame_std": std, "fps": fps}
    rounded = {name: None if value is None else round(float(value), 2) for name, value in values.items()}
    return {"preparation_included": whole, **rounded, "skipped": None}


def _row(batch: int, whole: dict[str, Any], alone: dict[str, Any]) -> str:
    times = [part[key] for part in (whole, alone) for key in ("us_per_frame_mean", "us_per_frame_std")]
    cells = [str(batch), *("-" if value is None else f"{value:.1f}" for value in times), f"{whole['fps']:.0f}"]
    return "  ".join(text.rjust(width) for text, width in zip(cells, COLUMNS.values(), strict=True))


def processor() -> str:
    """What the processor, or the board, calls itself."""
    for path, start in ((Path("/proc/cpuinfo"), "model name"), (Path("/proc/device-tree/model"), "")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(start):
                return line.rpartition(": ")[2].strip("\0 ")
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """What the NVIDIA cards call themselves."""
    texts = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    lines: Sequence[str] = [line for text in texts for line in text.splitlines() if line.startswith("Model:")]
    return [line.partition(":")[2].strip() for line in lines]


def libraries() -> dict[str, str]:
    """Versions of the libraries that engines stand on, as far as they are installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
