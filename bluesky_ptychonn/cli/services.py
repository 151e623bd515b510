"""Everything a scan needs on one machine: simulated beamline, catalog and edge, started and ended together."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.config import VARIABLE, Settings, load_settings, write_settings
from bluesky_ptychonn.simulation.beamline import Beamline
from bluesky_ptychonn.simulation.beamline import start as start_beamline
from bluesky_ptychonn.simulation.processes import signal_group, signals_held

logger = logging.getLogger(__name__)

SETTINGS_FILE = "bluesky_ptychonn.toml"
PATIENCE_S = 90.0
END_S = 10.0


class Child:
    """A process of ours with a log; Ctrl-C in the terminal does not reach it, `end` does.

    Parameters
    ----------
    name : str
        For messages and the name of the log.
    arguments : list of str
        Arguments of ``bluesky-ptychonn``.
    directory : Path
        Where the log goes.
    """

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name, self._arguments, self._log = name, arguments, directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, or start it again."""
        with signals_held(), self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bluesky_ptychonn.cli.main", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until it serves.

        Raises
        ------
        RuntimeError
            If it ends, or does not serve in time; with the last lines of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                lines = self._log.read_text(errors="replace").splitlines()[-8:]
                what = "ended" if ended else f"does not serve within {timeout_s:g} s"
                raise RuntimeError(f"{self.name} {what}; its log {self._log} says:\n" + "\n".join(lines))
            time.sleep(0.05)

    def end(self) -> None:
        """End it and what it started: SIGTERM, then SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            signal_group(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)
        self._process = None


def edge_answers(settings: Settings) -> bool:
    """Whether the edge of these settings serves its channels."""
    from bluesky_ptychonn.io.pva import PvaChannel

    try:
        PvaChannel(f"{settings.edge.prefix}stats", timeout_s=0.5).get()
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def temporary_state() -> Iterator[Path]:
    """State directory that goes at the end, also on a second Ctrl-C."""
    directory = Path(tempfile.mkdtemp(prefix="ptychonn-"))
    try:
        yield directory
    finally:
        with signals_held(drop=True):
            shutil.rmtree(directory, ignore_errors=True)


class Services:
    """Simulated beamline, embedded catalog and edge in one state directory; a context manager that ends them all.

    Parameters
    ----------
    directory : Path
        State directory: settings, logs, data, catalog.
    catalog, edge : bool
        Whether to start these.
    engine : str
        Engine of the edge.
    say : callable
        Told what is going on.
    **beamline
        Options of `simulation.beamline.start`: source, sample, photons, seed and others.
    """

    def __init__(
        self,
        directory: Path,
        *,
        catalog: bool = True,
        edge: bool = True,
        engine: str = "openvino",
        say: Callable[[str], None] = lambda _: None,
        **beamline: Any,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.settings_file = self.directory / SETTINGS_FILE
        self._engine, self._say, self._options = engine, say, beamline
        self._beamline: Beamline | None = None
        data = self.directory / "data"
        serve = ["catalog", "serve", "--directory", str(self.directory / "catalog"), "--readable", str(data)]
        self.catalog = Child("catalog", serve, self.directory) if catalog else None
        self.edge = Child("edge", ["edge", "--settings", str(self.settings_file)], self.directory) if edge else None

    @property
    def beamline(self) -> Beamline:
        """The running beamline."""
        if self._beamline is None:
            raise RuntimeError("the simulated beamline was not started")
        return self._beamline

    @property
    def settings(self) -> Settings:
        """What clients need to know."""
        return load_settings(self.settings_file)

    def __enter__(self) -> "Services":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it serves; sets this process's EPICS environment."""
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        if self.catalog:
            (self.directory / "catalog" / "catalog.json").unlink(missing_ok=True)
            self.catalog.start()
        self._say("starting the simulated beamline (detector and stage IOC)")
        self._beamline = start_beamline(self.directory, **self._options)
        self._write_settings()
        os.environ[VARIABLE] = str(self.settings_file)
        self.settings.apply_epics_environment()
        if self.edge:
            self._say("starting the edge")
            self.start_edge()
        if self.catalog:
            self._say("starting the catalog (Tiled)")
            self._wait_for_catalog()
            self._write_settings()

    def start_edge(self) -> None:
        """Start the edge, or start it again, and wait until its channels are served."""
        if self.edge:
            self.edge.start()
            self.edge.wait_until(lambda: edge_answers(self.settings))

    def start_catalog(self) -> None:
        """Start the catalog again, on its old port."""
        if self.catalog:
            self.catalog.start()
            self._wait_for_catalog()

    def stop(self) -> None:
        """End everything that was started, whatever fails or is signalled meanwhile."""
        parts = [(child.name, child.end) for child in (self.edge, self.catalog) if child]
        if self._beamline is not None:
            parts.append(("beamline", self._beamline.stop))
        with signals_held(drop=True):
            for name, end in parts:
                try:
                    end()
                except Exception:
                    logger.exception("%s was not ended; see %s", name, self.directory)
        self._beamline = None

    def _wait_for_catalog(self) -> None:
        from bluesky_ptychonn.io.catalog import embedded_address

        if self.catalog:
            self.catalog.wait_until(lambda: embedded_address(self.directory / "catalog") is not None)

    def _write_settings(self) -> None:
        from bluesky_ptychonn.io.catalog import embedded_address

        detector = self.beamline.detector
        keys = ("energy_kev", "distance_m", "detector_pixel_um", "beam_center_px")
        tables: dict[str, dict[str, Any]] = {
            "epics": {"environment": self.beamline.env},
            "beamline": {"data_directory": "data", "stream_clock": "detector"},
            "geometry": {
                **{key: detector[key] for key in keys},
                "frame_px": detector["frame_shape"][0],
                "bad_pixels_file": "bad_pixels.npy",
            },
            "edge": {"engine": self._engine},
            "catalog": {"backup_directory": "documents_backup"},
            "scan": {"picture_directory": "pictures"},
        }
        if (self.directory / "probe.npy").exists():
            tables["probe"] = {"file": "probe.npy"}
        address = embedded_address(self.directory / "catalog") if self.catalog else None
        if address:
            key_file = self.directory / "catalog" / "api_key"
            key_file.touch(mode=0o600)
            key_file.write_text(address[1])
            tables["catalog"] |= {"uri": address[0], "api_key_file": "catalog/api_key"}
        write_settings(tables, self.settings_file)
