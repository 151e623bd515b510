"""Processes that simulate scans while a network learns from them."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bluesky_ptychonn.training.learning.simulated import GEOMETRY, simulate_scan

SLOTS = 3
"""Scans that a process may be ahead."""
SCAN_FRAMES = 40
"""Frames of a scan."""
PATIENCE_S = 2.0


@dataclass(frozen=True)
class Simulation:
    """Simulated scans to learn from, each the same for the same seed, on any number of processes.

    Parameters
    ----------
    workers : int
        Processes that simulate, about 12 scans a second each; the training waits for them.
    visits : float
        How often a pair is learned from, on average.
    kept : int
        Newest scans which batches are drawn from; 2 MB each, on the device.
    photons : float, optional
        Per frame, of all scans; any of `simulated.DOSES` without it.
    """

    workers: int = 1
    visits: float = 4.0
    kept: int = 2000
    photons: float | None = None

    @property
    def name(self) -> str:
        """What stands for the snapshot of a corpus."""
        dose = f", {self.photons:g} photons" if self.photons else ""
        return f"simulated while learning: {self.visits:g} visits, {self.kept} scans kept{dose}"


def scan_type(side_px: int) -> np.dtype:
    """One scan in memory."""
    n = GEOMETRY.frame_px
    return np.dtype(
        [
            ("patterns", np.int16, (SCAN_FRAMES, n, n)),
            ("labels", np.float16, (SCAN_FRAMES, 2, side_px, side_px)),
            ("probe", np.complex64, (n, n)),
        ]
    )


def slots_of(memory: Any, side_px: int) -> np.ndarray:
    """Scans in memory that processes share."""
    scan = scan_type(side_px)
    return np.frombuffer(memory, np.uint8)[: SLOTS * scan.itemsize].view(scan)


class Simulators:
    """Processes that simulate scans in turn: process k of K makes number k, k + K, ..."""

    def __init__(self, simulation: Simulation, seed: list[int], first: int, side_px: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._turns = itertools.cycle(range(simulation.workers))
        self._next = [0] * simulation.workers
        self._memory, self._free, self._filled, self._processes = [], [], [], []
        for worker in range(simulation.workers):
            memory = context.RawArray("B", SLOTS * scan_type(side_px).itemsize)
            free, filled = context.Semaphore(SLOTS), context.Semaphore(0)
            numbers = (first + worker, simulation.workers)
            process = context.Process(
                target=_simulate,
                args=(memory, free, filled, seed, numbers, simulation.photons, side_px),
                name=f"simulate-{worker}",
                daemon=True,
            )
            process.start()
            self._memory.append(slots_of(memory, side_px))
            self._free.append(free)
            self._filled.append(filled)
            self._processes.append(process)

    def take(self) -> Iterator[np.void]:
        """The next scan, once; its memory is used again afterwards.

        Raises
        ------
        RuntimeError
            If the process that makes it has ended.
        """
        worker = next(self._turns)
        while not self._filled[worker].acquire(timeout=PATIENCE_S):
            process = self._processes[worker]
            if not process.is_alive():
                raise RuntimeError(f"{process.name} has ended with exit code {process.exitcode}; the training stops")
        slot = self._next[worker]
        self._next[worker] = (slot + 1) % SLOTS
        yield self._memory[worker][slot]
        self._free[worker].release()

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _simulate(
    memory, free, filled, seed: list[int], numbers: tuple[int, int], photons: float | None, side_px: int
) -> None:
    """Simulate scans for ever, or until the training ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a training that ignores it hands that on
    os.environ["OMP_NUM_THREADS"] = "1"
    slots, training = slots_of(memory, side_px), multiprocessing.parent_process()
    for turn_, number in enumerate(itertools.count(*numbers)):
        scan = simulate_scan(np.random.default_rng([*seed, 5, number]), SCAN_FRAMES, counts=photons)
        while not free.acquire(timeout=PATIENCE_S):
            if training is None or not training.is_alive():
                return
        slot, edge = slots[turn_ % SLOTS], (GEOMETRY.frame_px - side_px) // 2
        slot["patterns"] = scan.patterns.view(np.int16)
        slot["labels"] = scan.labels[..., edge : edge + side_px, edge : edge + side_px]
        slot["probe"] = scan.probe
        filled.release()
