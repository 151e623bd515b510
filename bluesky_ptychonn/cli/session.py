"""RunEngine, devices and callbacks of one beamline, wired from the settings; what a profile shows to its users."""

import logging
from dataclasses import dataclass, field
from typing import Any

from bluesky_ptychonn.config import Settings

logger = logging.getLogger(__name__)

CONNECT_S = 15.0
SHUTTER_S = 5.0


@dataclass
class Session:
    """Everything a scan needs in one process.

    Attributes
    ----------
    RE : bluesky.RunEngine
    detector, stage, edge, shutter
        Ophyd devices; shutter is None where the settings name none.
    live : LiveImage
        Arms the edge, keeps a picture of each run.
    recorder : TiledRecorder or FileRecorder
        Writes documents to the catalog, or into files if there is none.
    cat : tiled client or None
        Catalog of runs.
    trigger : RetrainTrigger or None
        Notes each run for the loop; None where the settings do not enable it.
    monitors : list
        Incident flux of each scan, and of each trigger, as far as the settings name them.
    """

    RE: Any
    detector: Any
    stage: Any
    edge: Any
    shutter: Any
    live: Any
    recorder: Any
    cat: Any
    trigger: Any = None
    monitors: list[Any] = field(default_factory=list)

    def close(self) -> None:
        """Write what is queued; the end of the servers is then no news."""
        from epics import ca

        self.live.wait(CONNECT_S)
        self.recorder.close()
        if self.trigger is not None:
            self.trigger.close()
        ca.replace_printf_handler(lambda _: None)


def open_session(
    settings: Settings,
    *,
    progress: bool = True,
    interactive: bool = True,
    need_catalog: bool = False,
    catalog_timeout_s: float = 20.0,
) -> Session:
    """Connect to the beamline of the settings.

    Parameters
    ----------
    settings : Settings
        Its EPICS environment is set here, before the libraries are imported.
    progress : bool
        Show a progress bar on long waits.
    interactive : bool
        Ctrl-C pauses the plan for a user who decides; without it, Ctrl-C or SIGTERM aborts the plan.
    need_catalog : bool
        Fail without the catalog, instead of recording documents into files.
    catalog_timeout_s : float
        Patience with the catalog.

    Raises
    ------
    TimeoutError
        If a device does not connect; the message names its PVs.
    ConnectionError
        If the catalog is needed and does not answer.
    """
    settings.apply_epics_environment()
    from bluesky import RunEngine
    from bluesky.utils import ProgressBarManager

    from bluesky_ptychonn.callbacks.live import LiveImage
    from bluesky_ptychonn.cli.interruption import AbortOnSignal

    detector, stage, edge, shutter = make_devices(settings)
    monitors = make_monitors(settings)
    for device in (detector, stage, shutter, *monitors):
        if device is not None:
            device.wait_for_connection(timeout=CONNECT_S)
    cat, recorder = open_recorder(settings, need_catalog=need_catalog, timeout_s=catalog_timeout_s)
    RE = RunEngine() if interactive else RunEngine(context_managers=[AbortOnSignal])
    live = LiveImage(settings.edge.prefix, settings.scan.picture_directory)
    trigger = open_trigger(settings)
    RE.subscribe(live)
    RE.subscribe(recorder)
    if trigger is not None:
        for name in ("start", "stop"):  # events need not wait for it
            RE.subscribe(trigger, name)
    if progress:
        RE.waiting_hook = ProgressBarManager()  # type: ignore[assignment]
    return Session(RE, detector, stage, edge, shutter, live, recorder, cat, trigger, monitors)


def open_recorder(settings: Settings, *, need_catalog: bool, timeout_s: float) -> tuple[Any, Any]:
    """Catalog and what records into it; without a catalog, None and a recorder into files, and the user is told."""
    from bluesky_ptychonn.callbacks.record import FileRecorder, TiledRecorder
    from bluesky_ptychonn.cli.catalog import open_catalog

    backup = settings.catalog.backup_directory
    why = "the settings name no catalog"
    if settings.catalog.uri or need_catalog:
        try:
            cat = open_catalog(settings, timeout_s=timeout_s)
            return cat, TiledRecorder(cat, backup)
        except ConnectionError as error:
            if need_catalog:
                raise
            why = str(error)
    logger.warning(
        "%s. cat is None; the documents of each run go into a file in %s, for `bluesky-ptychonn catalog ingest FILE`",
        why,
        backup,
    )
    return None, FileRecorder(backup)


def open_trigger(settings: Settings) -> Any:
    """What notes each run for the loop, where ``loop.enabled``, else None; a journal in a bad place is told."""
    if not settings.loop.enabled:
        return None
    from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
    from bluesky_ptychonn.io.durable import network_disk

    journal = settings.loop.journal_file
    if kind := network_disk(journal):
        logger.warning(
            "the journal %s lies on a network disk (%s), where SQLite may lose what two machines write; set "
            "loop.journal to a file on a local disk",
            journal,
            kind,
        )
    return RetrainTrigger(journal)


def make_devices(settings: Settings) -> tuple[Any, Any, Any, Any]:
    """Detector, stage, edge and shutter (or None) of the settings, not yet connected."""
    from ophyd import EpicsSignal

    from bluesky_ptychonn.devices.edge import Edge
    from bluesky_ptychonn.devices.eiger import Eiger
    from bluesky_ptychonn.devices.medipix import Medipix3
    from bluesky_ptychonn.devices.stage import SpiralStage
    from bluesky_ptychonn.devices.stage_pvs import PositionTable

    beamline = settings.beamline
    detector: Eiger | Medipix3
    if beamline.detector == "eiger2":
        detector = Eiger(beamline.detector_prefix, name="detector")
        detector.stream_clock.put(beamline.stream_clock)
    else:
        detector = Medipix3(beamline.detector_prefix, name="detector")
    detector.file_directory.put(str(beamline.data_directory or ""))
    detector.triggering.put(beamline.triggering)
    put_geometry(detector, settings)
    edge = Edge(settings.edge.prefix, name="edge")
    edge.arm_timeout_s.put(settings.scan.arm_timeout_s)
    shutter = None
    if beamline.shutter_pv:
        shutter = EpicsSignal(beamline.shutter_pv, name="shutter", string=True, write_timeout=SHUTTER_S)
    table = PositionTable(beamline.position_table, name="position_table") if beamline.position_table else None
    return detector, SpiralStage(beamline.stage_prefix, name="stage", table=table), edge, shutter


def put_geometry(detector: Any, settings: Settings) -> None:
    """Tell a detector how the beam lies in its frames, and what frames with beam are; the next run is taken so."""
    beamline, geometry = settings.beamline, settings.geometry
    for name, value in {
        "energy_kev": geometry.energy_kev,
        "distance_m": geometry.distance_m,
        "detector_pixel_um": geometry.detector_pixel_um,
        "crop_px": geometry.frame_px,
        "binning": geometry.binning,
        "beam_center_y_px": geometry.beam_center_px[0],
        "beam_center_x_px": geometry.beam_center_px[1],
        "orientation": geometry.orientation,
        "probe_diameter_um": probe_diameter_of(settings),
        "min_counts": beamline.min_counts,
        "min_flux": beamline.min_flux,
    }.items():
        getattr(detector.geometry, name).put(value)


def make_monitors(settings: Settings) -> list[Any]:
    """What records the incident flux, as far as the settings name it, not yet connected."""
    from ophyd import EpicsSignalRO

    from bluesky_ptychonn.devices.monitor import FluxScaler

    beamline = settings.beamline
    found: list[Any] = [EpicsSignalRO(beamline.flux_pv, name="incident_flux")] if beamline.flux_pv else []
    if beamline.flux_scaler:
        found.append(FluxScaler(beamline.flux_scaler, name="flux_scaler", channel=beamline.flux_channel))
    return found


def probe_diameter_of(settings: Settings) -> float:
    """Diameter of the probe in the settings (90 % of its power), um."""
    from bluesky_ptychonn.cli.edge import settings_probe
    from bluesky_ptychonn.core.optics import probe_diameter_um

    return probe_diameter_um(settings_probe(settings), settings.geometry.optics.pixel_size_um)
