"""Random torture of the whole loop under Slurm, drawn from a seed: scans, disordered documents, kills, faults."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from loop_faults import Disks, Faults, can_mount
from loop_laws import Watcher, check_end, check_jobs_are_there, check_status
from slurm_world import SlurmWorld
from whole_loop import WholeLoop

DARK = {"photons": 300.0}
SEEDS = [seed for seed in range(1, 31) if seed not in (8, 16)]
"""Of scans whose reconstruction is trusted."""
FAILING = (9, 10)
"""Fault points that are passed only where a job has failed."""
AFTER_S = 600.0
"""From the last fault until nothing is under way."""


class Torture:
    """One loop, tortured.

    Parameters
    ----------
    folder : Path
    slurm : SlurmWorld
    seed : int
        All that is drawn follows from it; what the scheduler makes of it does not.
    scans : int
    fault_points : collection of int
        At which the service is to be killed.
    faults : int
        How many others there are, each kind in its turn.
    every_s : float
        Between two scans.
    """

    def __init__(
        self, folder: Path, slurm: SlurmWorld, seed: int, *, scans: int, fault_points, faults: int, every_s: float
    ) -> None:
        self._rng = random.Random(seed)
        self._seeds = self._rng.sample(SEEDS, len(SEEDS))
        self._slurm = slurm
        self._loop = WholeLoop(folder, "slurm", slurm.environment, mismatch=0.9, suspend_min=0.3)
        mountable = folder / "mount"
        mountable.mkdir()
        self._disks = Disks(self._loop) if can_mount(mountable) else None
        if self._disks is None:
            print("nothing can be mounted here: no disk is full, no store read-only")
        self._faults = Faults(self._loop, slurm, self._disks, self._rng, self._go_on)
        self._todo = list(fault_points)
        self.met: Counter[str] = Counter()
        self.expected: dict[str, str] = {}
        self._hidden: list[tuple[str, Path]] = []
        self._documents = self._drawn(scans, every_s)
        kinds = list(self._faults.all)
        self._rng.shuffle(kinds)
        self._kinds = [kinds[number % len(kinds)] for number in range(faults)]
        self._gap_s = scans * every_s / max(faults, 1)

    # what is drawn

    def _drawn(self, scans: int, every_s: float) -> list[tuple[float, str, dict[str, Any]]]:
        """Documents with the second at which each comes: doubled here and there, and out of order."""
        drawn = []
        kinds = ["good", "good", "dark", "good", "good", "aborted", "good", "good"]
        for number in range(scans):
            kind = kinds[number % len(kinds)]
            drawn += [
                ((number + self._rng.uniform(0, 1.5)) * every_s, name, doc)
                for name, doc in self._scan(kind, fails=number == 1)
                for _ in range(self._rng.choice([1, 1, 2, 3]))
            ]
        return sorted(drawn, key=lambda one: one[0])

    def _scan(self, kind: str, *, fails: bool) -> list[tuple[str, dict[str, Any]]]:
        """Documents of a scan; one that fails lacks its frames at first."""
        status = "abort" if kind == "aborted" else "success"
        changes = DARK if kind == "dark" else {}
        documents = self._loop.documents(self._seeds.pop(), status=status, **changes)
        start = documents[0][1]
        self.expected[start["uid"]] = kind
        if fails:
            frames = Path(start["source"]["file"])
            frames.rename(frames.with_suffix(".late"))
            self._hidden.append((start["uid"], frames))
        return documents

    # what happens all the time

    def _go_on(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while True:
            self._keep_service()
            while self._documents and self._documents[0][0] <= time.monotonic() - self._began_s:
                _, name, doc = self._documents.pop(0)
                self._loop.note(name, doc)
                self.met["documents"] += 1
            for uid, frames in list(self._hidden):
                failures = self._failures(uid)
                if failures >= 2 or (failures and not set(FAILING) & set(self._todo)):
                    frames.with_suffix(".late").rename(frames)
                    self._hidden.remove((uid, frames))
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(0.1, left_s))

    def _failures(self, uid: str) -> int:
        return len(list((self._loop.directory / f"jobs/scan-{uid}").glob("result*.json")))

    def _keep_service(self) -> None:
        """Start the service again if it was killed, to be killed at one of the places where it was not yet."""
        if self._loop.serves():
            return
        point = self._loop.came_to() if self._loop.service is not None else None
        if point is not None:
            self._todo.remove(point)
            self.met[f"fault {point}"] += 1
        self._loop.start_service(self._todo)

    # the whole

    def run(self) -> None:
        """Do all of it, and check the laws."""
        self._began_s = time.monotonic()
        watcher = Watcher(self._loop)
        try:
            self._torture()
            self._settle()
        finally:
            watcher.close()
        check_end(self._loop, self._slurm, self.expected)
        print(f"{time.monotonic() - self._began_s:.0f} s, {watcher.looks} looks, {dict(self.met)}", flush=True)

    def _torture(self) -> None:
        while self._documents or self._kinds:
            self._go_on(self._gap_s * self._rng.uniform(0.5, 1.5))
            if self._kinds:
                kind = self._kinds.pop(0)
                print(f"{time.monotonic() - self._began_s:.0f} s: {kind}", flush=True)
                self._faults.all[kind]()
                self.met[kind] += 1
            if self._rng.random() < 0.3:
                check_status(self._loop)
                self.met["status"] += 1

    def _settle(self) -> None:
        """After the last fault everything ends; where fault points are left, with some more scans."""
        for _ in range(8):
            self._wait_for_the_end()
            if not self._todo:
                break
            now_s = time.monotonic() - self._began_s
            fails = bool(set(FAILING) & set(self._todo))
            self._documents = [(now_s, name, doc) for name, doc in self._scan("good", fails=fails)]
        assert not self._todo, f"the service never came to {self._todo}"
        if given_up := self._given_up():
            self._loop.told("retry", *given_up)
            self.met["retried"] += len(given_up)
            self._wait_for_the_end()

    def _given_up(self) -> list[str]:
        rows = self._loop.journal.scans("parked")
        return [row.uid for row in rows if self.expected[row.uid] != "aborted"]

    def _wait_for_the_end(self) -> None:
        end_s = time.monotonic() + AFTER_S
        checked_s = time.monotonic()
        while self._documents or self._loop.under_way() or self._has_spill():
            assert time.monotonic() < end_s, (
                f"these wait for ever: {self._loop.under_way()}\n{self._loop.told('status')}"
            )
            self._go_on(0.5)
            if time.monotonic() - checked_s > 20:
                check_jobs_are_there(self._loop, self._slurm, self._go_on)
                checked_s = time.monotonic()

    def _has_spill(self) -> bool:
        return any(self._loop.journal.path.parent.glob("*.jsonl*"))

    def close(self) -> None:
        """End everything that was started."""
        self._loop.close()
        if self._disks is not None:
            self._disks.close()
