"""Everything a scan needs on one machine: simulated beamline, catalog, edge and loop, started and ended together."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.child import END_S, Child
from bluesky_ptychonn.config import VARIABLE, Settings, load_settings, write_settings
from bluesky_ptychonn.simulation.beamline import Beamline
from bluesky_ptychonn.simulation.beamline import start as start_beamline
from bluesky_ptychonn.simulation.processes import signals_held

logger = logging.getLogger(__name__)

SETTINGS_FILE = "bluesky_ptychonn.toml"
STORE, LOOP, TOLD_PROBE = "models", "loop", "told_probe.npy"


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
    """Simulated beamline, catalog, edge and loop in one state directory; a context manager that ends them all.

    Parameters
    ----------
    directory : Path
        State directory: settings, logs, data, catalog.
    catalog, edge : bool
        Whether to start these.
    engine : str
        Engine of the edge.
    loop : mapping, optional
        Table ``[loop]`` of the settings beside its folder, to start the loop too, with local jobs. The edge then
        follows a model store, which begins with the starter model.
    told_defocus_um : float, optional
        The settings' probe is that of an ideal zone plate so far behind its focus; without it, what the beamline has.
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
        loop: Mapping[str, Any] | None = None,
        told_defocus_um: float | None = None,
        say: Callable[[str], None] = lambda _: None,
        **beamline: Any,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.settings_file = self.directory / SETTINGS_FILE
        self._engine, self._say, self._options = engine, say, beamline
        self._loop, self._told_defocus_um = loop, told_defocus_um
        self._beamline: Beamline | None = None
        data = self.directory / "data"
        serve = ["catalog", "serve", "--directory", str(self.directory / "catalog"), "--readable", str(data)]
        self.catalog = Child("catalog", serve, self.directory) if catalog else None
        settings = ["--settings", str(self.settings_file)]
        self.edge = Child("edge", ["edge", *settings], self.directory) if edge else None
        self.loop = Child("loop", ["loop", "run", *settings], self.directory) if loop is not None else None

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
        self._prepare_files()
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
        if self.loop:
            self._say("starting the loop")
            self._start_loop(self.loop)

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

    def stop_loop(self) -> None:
        """End the loop and its jobs, which would go on without it."""
        if self.loop and self._loop is not None:
            from bluesky_ptychonn.training.loop.jobs import submitted
            from bluesky_ptychonn.training.loop.runner import LocalRunner, make_runner

            self.loop.end()
            runner = make_runner(self._loop.get("runner", "local"), timeout_s=END_S)
            for folder in (self.directory / LOOP / "jobs").glob("*"):
                if native := submitted(folder):
                    if isinstance(runner, LocalRunner):
                        runner.end(native, END_S)
                    else:
                        runner.cancel(native)

    def stop(self) -> None:
        """End everything that was started, whatever fails or is signalled meanwhile."""
        parts = [("loop", self.stop_loop)] + [(child.name, child.end) for child in (self.edge, self.catalog) if child]
        if self._beamline is not None:
            parts.append(("beamline", self._beamline.stop))
        with signals_held(drop=True):
            for name, end in parts:
                try:
                    end()
                except Exception:
                    logger.exception("%s was not ended; see %s", name, self.directory)
        self._beamline = None

    def _start_loop(self, loop: Child) -> None:
        from bluesky_ptychonn.training.loop.serving import is_served

        loop.start()
        loop.wait_until(lambda: is_served(self.settings.loop.journal_file))

    def _prepare_files(self) -> None:
        """Model store and probe, where the options ask for them."""
        if self._loop is not None and not (self.directory / STORE).exists():
            from bluesky_ptychonn.engines.registry import STARTER
            from bluesky_ptychonn.io.model_store import open_model, publish

            card = open_model(STARTER).card
            publish(self.directory / STORE, card, {name: (STARTER / name).read_bytes() for name in card.files})
        if self._told_defocus_um is not None:
            import numpy as np

            from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe

            detector = self.beamline.detector
            pixel_um = detector["detector_pixel_um"] * detector["binning"]
            geometry = Geometry(detector["energy_kev"], detector["distance_m"], pixel_um, detector["pattern_px"])
            np.save(self.directory / TOLD_PROBE, zone_plate_probe(geometry, defocus_um=self._told_defocus_um))

    def _wait_for_catalog(self) -> None:
        from bluesky_ptychonn.io.catalog import embedded_address

        if self.catalog:
            self.catalog.wait_until(lambda: embedded_address(self.directory / "catalog") is not None)

    def _write_settings(self) -> None:
        from bluesky_ptychonn.io.catalog import embedded_address

        detector = self.beamline.detector
        keys = ("energy_kev", "distance_m", "detector_pixel_um", "beam_center_px", "orientation")
        tables: dict[str, dict[str, Any]] = {
            "epics": {"environment": self.beamline.env},
            "beamline": {
                "detector": detector["kind"],
                "detector_prefix": detector["prefix"],
                "data_directory": "data",
                "stream_clock": "detector",
            },
            "geometry": {
                **{key: detector[key] for key in keys},
                "frame_px": detector["pattern_px"],
                "binning": detector["binning"],
                "bad_pixels_file": "bad_pixels.npy",
            },
            "edge": {"engine": self._engine},
            "catalog": {"backup_directory": "documents_backup"},
            "scan": {"picture_directory": "pictures"},
        }
        probe = "probe.npy" if self._told_defocus_um is None else TOLD_PROBE
        if (self.directory / probe).exists():
            tables["probe"] = {"file": probe}
        if self._loop is not None:
            tables["edge"]["model"] = STORE
            tables["loop"] = {"enabled": True, "directory": LOOP, **self._loop}
        address = embedded_address(self.directory / "catalog") if self.catalog else None
        if address:
            key_file = self.directory / "catalog" / "api_key"
            key_file.touch(mode=0o600)
            key_file.write_text(address[1])
            tables["catalog"] |= {"uri": address[0], "api_key_file": "catalog/api_key"}
        write_settings(tables, self.settings_file)
