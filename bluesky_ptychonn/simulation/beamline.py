"""Start and end the simulated beamline: detector IOC, stage IOC and CA repeater on free loopback ports."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bluesky_ptychonn.simulation.cable import FIFO_NAME
from bluesky_ptychonn.simulation.names import DETECTOR, SHUTTER, STAGE
from bluesky_ptychonn.simulation.processes import signal_group, signals_held

FILE_NAME = "beamline.json"
MODULES = {
    name: f"bluesky_ptychonn.simulation.{module}"
    for name, module in {"repeater": "repeater", "detector": "detector_ioc", "stage": "stage_ioc"}.items()
}
PROCESSES = tuple(MODULES)
PORTS = range(20_000, 30_000)
"""Below what systems hand out to clients, so that a port found free stays free."""
LOOPBACK = {
    "EPICS_CA_AUTO_ADDR_LIST": "NO",
    "EPICS_CA_MAX_ARRAY_BYTES": "100000000",
    "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
    "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
    "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
    "EPICS_PVA_ADDR_LIST": "127.0.0.1",
    "EPICS_PVA_AUTO_ADDR_LIST": "NO",
    "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
}


class BeamlineError(RuntimeError):
    """The simulated beamline does not run, or does already."""


@dataclass
class Beamline:
    """A running beamline; also a context manager which ends it.

    Parameters
    ----------
    directory : Path
        State directory: logs, the truth, the cable, ``beamline.json``.
    arguments : dict
        Command line of each process behind its module.
    ports : dict
        Port of each server, and of the PVA search.
    pids : dict
    detector : dict
        Frame, beam centre and geometry, as the detector reported them.
    """

    directory: Path
    arguments: dict[str, list[str]]
    ports: dict[str, int]
    pids: dict[str, int] = field(default_factory=dict)
    detector: dict[str, Any] = field(default_factory=dict)
    _children: dict[str, subprocess.Popen] = field(default_factory=dict, repr=False)

    @property
    def env(self) -> dict[str, str]:
        """EPICS environment of clients, and of further PVA servers on this beamline."""
        addresses = " ".join(f"127.0.0.1:{self.ports[name]}" for name in ("detector", "stage"))
        search, repeater = str(self.ports["pva_search"]), str(self.ports["repeater"])
        shared = {"EPICS_PVA_BROADCAST_PORT": search, "EPICS_PVAS_BROADCAST_PORT": search}
        shared |= {"EPICS_CA_REPEATER_PORT": repeater, "EPICS_CAS_BEACON_PORT": repeater}
        return {"EPICS_CA_ADDR_LIST": addresses, **LOOPBACK, **shared}

    def alive(self) -> dict[str, bool]:
        """Which processes run."""
        return {name: self._runs(name) for name in PROCESSES}

    def restart(self, name: str, timeout_s: float = 120) -> None:
        """End one process, if it still runs, and start it again on the same port."""
        self._end([name])
        self._spawn(name)
        self._wait_ready([name], timeout_s)

    def stop(self) -> None:
        """End every process: SIGTERM, then SIGKILL. Logs and truth stay, everything else goes."""
        with signals_held(drop=True):
            self._end(PROCESSES)
        for pattern in (FILE_NAME, FIFO_NAME, "*.ready", "trajectory_*"):
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)

    def __enter__(self) -> "Beamline":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, name: str) -> None:
        (self.directory / f"{name}.ready").unlink(missing_ok=True)
        port, pva = str(self.ports[name]), str(self.ports["pva"])
        own = {"EPICS_CAS_SERVER_PORT": port, "EPICS_CA_SERVER_PORT": port}
        own |= {"EPICS_PVA_SERVER_PORT": pva, "EPICS_PVAS_SERVER_PORT": pva}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with signals_held(), (self.directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", MODULES[name], str(self.directory), *self.arguments[name]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads, **self.env, **own},
                start_new_session=True,  # Ctrl-C in the terminal is for its owner
            )
            self._children[name], self.pids[name] = child, child.pid
        self._save()

    def _wait_ready(self, names: list[str], timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        for name in names:
            ready = self.directory / f"{name}.ready"
            while not (ready.exists() and ready.read_text()):
                code = self._children[name].poll()
                if code is not None or time.monotonic() > end_s:
                    what = f"ended with {code}" if code is not None else f"not ready within {timeout_s} s"
                    raise BeamlineError(f"{name}: {what}; its log says:\n{self._tail(name)}")
                time.sleep(0.05)
            if name == "detector":
                self.detector = json.loads(ready.read_text())
        self._save()

    def _tail(self, name: str) -> str:
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-8:])

    def _save(self) -> None:
        described = {
            "directory": str(self.directory),
            "pids": self.pids,
            "ports": self.ports,
            "arguments": self.arguments,
            "env": self.env,
            "prefixes": {"detector": self.detector.get("prefix", DETECTOR), "stage": STAGE, "shutter": SHUTTER},
            "detector": self.detector,
        }
        partial = self.directory / (FILE_NAME + ".part")
        partial.write_text(json.dumps(described, indent=1))
        partial.rename(self.directory / FILE_NAME)

    def _runs(self, name: str) -> bool:
        child = self._children.get(name)
        if child is not None:
            return child.poll() is None
        return name in self.pids and _is_ours(self.pids[name], name, self.directory)

    def _end(self, names: tuple[str, ...] | list[str]) -> None:
        for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            running = [name for name in names if self._runs(name)]
            for name in running:
                signal_group(self.pids[name], number)
            _wait_until(lambda running=running: not any(self._runs(name) for name in running), patience_s)
        for name in names:
            self.pids.pop(name, None)
            self._children.pop(name, None)


def start(
    directory: Path | str,
    *,
    detector: str = "eiger2",
    source: str = "physics",
    sample: str = "etched",
    field_um: float = 12.0,
    photons: float = 1e6,
    frame_px: int | None = None,
    defocus_um: float = 170.0,
    astigmatism_um: float = 0.0,
    astigmatism_angle_rad: float = 0.0,
    beam_offset_px: tuple[int, int] = (0, 0),
    orientation: str = "identity",
    seed: int = 0,
    timeout_s: float = 120.0,
) -> Beamline:
    """Start the beamline and wait until it is served.

    Parameters
    ----------
    directory : Path or str
        State directory; made if it is not there.
    detector : {"eiger2", "medipix3"}
    source : str
        ``"physics"``, or the NPZ file of a recorded scan.
    sample : {"etched", "letters", "islands"}
    field_um, photons, frame_px, defocus_um, astigmatism_um, astigmatism_angle_rad
        Side of the sample, photons per frame, side of a frame (the detector's if not given), and the probe.
    beam_offset_px, orientation
        How much further down and right the beam meets the detector than usual, and what turns frames to stage axes.
    seed : int
        Of sample, detector face and noise.
    timeout_s : float
        Patience.

    Raises
    ------
    BeamlineError
        If one runs in this directory already, or a process does not come up; nothing is left running then.
    """
    directory = Path(directory).resolve()
    if any(status(directory).values()):
        raise BeamlineError(f"a beamline runs in {directory} already; stop it first")
    if source != "physics":
        source = str(Path(source).resolve())
        if not Path(source).is_file():
            raise BeamlineError(f"source = {source} is neither 'physics' nor a file")
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(directory).free < 200e6:
        raise BeamlineError(f"less than 200 MB are free in {directory}; give another directory")
    options: dict[str, Any] = {
        "detector": detector,
        "source": source,
        "sample": sample,
        "field-um": field_um,
        "photons": photons,
        "defocus-um": defocus_um,
        "astigmatism-um": astigmatism_um,
        "astigmatism-angle-rad": astigmatism_angle_rad,
        **{f"beam-offset-{axis}-px": offset for axis, offset in zip("yx", beam_offset_px)},
        "orientation": orientation,
        "seed": seed,
    }
    if frame_px is not None:
        options["frame-px"] = frame_px
    arguments = [f"--{name}={value}" for name, value in options.items()]
    servers: list[str] = [*PROCESSES, "pva", "pva_search"]
    ports = dict(zip(servers, free_ports(len(servers))))
    beamline = Beamline(directory, {"repeater": [], "detector": arguments, "stage": []}, ports)
    try:
        for name in PROCESSES:
            beamline._spawn(name)
        beamline._wait_ready(list(PROCESSES), timeout_s)
    except BaseException:
        beamline.stop()
        raise
    return beamline


def attach(directory: Path | str) -> Beamline:
    """Take over the beamline that somebody started in this directory."""
    path = Path(directory).resolve() / FILE_NAME
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        raise BeamlineError(f"no beamline was started in {path.parent}") from None
    return Beamline(path.parent, told["arguments"], told["ports"], told["pids"], told["detector"])


def stop(directory: Path | str) -> None:
    """End the beamline of this directory."""
    attach(directory).stop()


def status(directory: Path | str) -> dict[str, bool]:
    """Which processes of this directory's beamline run; empty if none was started."""
    try:
        return attach(directory).alive()
    except BeamlineError:
        return {}


def loopback_environment() -> dict[str, str]:
    """EPICS environment for PVA servers and clients of their own, on loopback and free ports."""
    search = str(free_ports(1)[0])
    ports = {"EPICS_PVA_BROADCAST_PORT": search, "EPICS_PVAS_BROADCAST_PORT": search}
    return {**LOOPBACK, **ports, "EPICS_PVA_SERVER_PORT": "0", "EPICS_PVAS_SERVER_PORT": "0"}


def free_ports(count: int) -> list[int]:
    """Ports on loopback on which neither TCP nor UDP is in use."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) < count and _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise BeamlineError(f"no {count} free ports in {PORTS.start} to {PORTS.stop}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for address in ("127.0.0.1", ""):
            with socket.socket(socket.AF_INET, kind) as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    return False
    return True


def _is_ours(pid: int, name: str, directory: Path) -> bool:
    """Whether the process still is the IOC that was started, not another with its number."""
    command = Path(f"/proc/{pid}/cmdline")
    if command.parent.parent.joinpath("self").exists():
        try:
            words = command.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return False
        return MODULES[name] in words and str(directory) in words
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _wait_until(done: Callable[[], bool], patience_s: float) -> None:
    end_s = time.monotonic() + patience_s
    while not done() and time.monotonic() < end_s:
        time.sleep(0.02)
