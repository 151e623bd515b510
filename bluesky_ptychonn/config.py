"""Settings: one TOML file, validated; unknown keys fail.

Every value has a default that fits the simulated beamline; a facility's file names what differs. The file is found
through ``--settings``, else the variable ``BLUESKY_PTYCHONN_SETTINGS``, else ``bluesky_ptychonn.toml`` in the working
directory.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bluesky_ptychonn.core.beam import MIN_COUNTS
from bluesky_ptychonn.io.toml_tables import Section, as_toml, problems
from bluesky_ptychonn.loop_settings import LoopSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from bluesky_ptychonn.core.optics import Geometry

VARIABLE = "BLUESKY_PTYCHONN_SETTINGS"
FILE_NAME = "bluesky_ptychonn.toml"
PACKAGED = ("starter", "large")
"""Models that come with the package, by name."""
ORIENTATIONS = Literal["identity", "flip_y", "flip_x", "rot180", "transpose", "rot90", "rot270", "antitranspose"]


class SettingsError(ValueError):
    """The settings cannot be used; the message names the key, the value and the remedy."""


class Epics(Section):
    """How clients find the EPICS servers."""

    environment: dict[str, str] = Field(
        default_factory=dict, description="variables to set, such as EPICS_CA_ADDR_LIST; the others are left alone"
    )

    def apply(self) -> None:
        """Set the variables; call before a CA or PVA library is imported."""
        os.environ.update(self.environment)


class BeamlineSettings(Section):
    """PV prefixes, with their trailing colons, and where the detector writes."""

    detector: Literal["eiger2", "medipix3"] = Field(default="eiger2", description="behind ADEiger, or ADTimePix3")
    detector_prefix: str = Field(default="SIM:EIG:", description="in front of cam1:, ROI1:, Pva1: and HDF1:")
    stage_prefix: str = Field(default="SIM:STAGE:", description="in front of the motors Y and X, and of Prof1:")
    position_table: str = Field(default="", description="prefix of a table of captured positions; else Prof1:'s own")
    shutter_pv: str = Field(default="SIM:SHUTTER", description="takes Open and Close; empty if there is none")
    data_directory: Path | None = Field(default=None, description="of frames; else where HDF1:FilePath points")
    stream_clock: Literal["detector", "ioc"] = Field(default="detector", description="whose time stamps Eiger frames")
    triggering: Literal["pulse", "gate", "start"] = Field(
        default="pulse", description="a pulse starts one exposure, or lasts as long as it, or the first starts them all"
    )
    min_counts: float = Field(
        default=MIN_COUNTS,
        ge=0,
        description="counts of a frame with beam, or, below 1, their part of a typical frame's; 0 takes every frame",
    )
    flux_pv: str = Field(default="", description="incident flux, read at start and end of a scan; empty: none")
    flux_scaler: str = Field(default="", description="prefix of a multichannel scaler that counts flux per trigger")
    flux_channel: int = Field(default=2, ge=1, le=32, description="input of that scaler")
    min_flux: float = Field(default=0, ge=0, le=1, description="part of a scan's median flux per trigger; 0: any")


class GeometrySettings(Section):
    """The beam, and how frames lie in the detector; patterns have ``frame_px`` pixels, each ``binning`` of its own."""

    energy_kev: float = Field(default=10.0, gt=0.1, lt=200, description="photon energy, keV (not eV)")
    distance_m: float = Field(default=0.9, gt=0.01, lt=100, description="sample to detector, m")
    detector_pixel_um: float = Field(default=75.0, gt=1, lt=1000, description="side of a detector pixel, um")
    frame_px: int = Field(default=128, ge=16, le=2048, multiple_of=4, description="side of a pattern, after binning")
    binning: int = Field(default=1, ge=1, le=8, description="side of a superpixel, in detector pixels")
    beam_center_px: tuple[float, float] = Field(
        default=(64.0, 64.0), strict=False, description="row and column of the beam in the streamed frame"
    )
    orientation: ORIENTATIONS = Field(default="identity", description="from detector axes to stage axes")
    bad_pixels_file: Path | None = Field(default=None, description=".npy of bool, as large as a frame; True is bad")

    @property
    def optics(self) -> "Geometry":
        """Far-field geometry of the patterns."""
        from bluesky_ptychonn.core.optics import Geometry

        return Geometry(self.energy_kev, self.distance_m, self.detector_pixel_um * self.binning, self.frame_px)


class ProbeSettings(Section):
    """The illumination: a file, or without one the wave of a zone plate."""

    file: Path | None = Field(default=None, description=".npy of complex64 (frame_px, frame_px), of any power")
    zone_plate_diameter_um: float = Field(default=160.0, gt=0, le=10_000, description="of the zone plate, um")
    outermost_zone_nm: float = Field(default=30.0, gt=1, le=1000, description="width of the zone plate's last zone, nm")
    central_stop_um: float = Field(default=60.0, ge=0, le=10_000, description="diameter of the central stop, um")
    defocus_um: float | None = Field(
        default=None, ge=-1e5, le=1e5, description="sample behind (+) or before (-) the focus, um; its sign counts"
    )
    astigmatism_um: float = Field(default=0.0, ge=0, le=1e5, description="distance between the two line foci, um")
    astigmatism_angle_rad: float = Field(
        default=0.0, ge=-7, le=7, description="from +x towards +y, in which the sample is further behind the focus"
    )


class EdgeSettings(Section):
    """The streaming service."""

    prefix: str = Field(default="ptychonn:", description="of its PVA channels, with its trailing colon")
    engine: Literal["auto", "tensorrt", "torch", "openvino", "onnxruntime", "lift"] = Field(
        default="openvino", description="what turns patterns into patches; lift needs no model"
    )
    model: Path | None = Field(default=None, description="model store or version, or starter (the default) or large")
    batch: int = Field(default=8, ge=1, le=256, description="frames inferred at once")
    kept_patches_mb: int = Field(
        default=512, ge=1, le=65536, description="memory for patches until the final image, MB"
    )
    newest_wins: bool = Field(default=False, description="shed the frames that wait longest, not those without room")
    engine_core: int | None = Field(default=None, ge=0, description="a core for inference alone")


class LearningSettings(Section):
    """The gate before the model store, which is ``edge.model``."""

    gate_margin: float = Field(default=0.01, ge=0, le=1, description="mean gain that is asked of a new model")


class CatalogSettings(Section):
    """Tiled. The key comes from a file, never from the settings."""

    uri: str = Field(default="", description="address of the server; empty: no catalog, documents go into files")
    api_key_file: Path | None = Field(default=None, description="holds the key")
    backup_directory: Path = Field(default=Path("documents_backup"), description="of documents that no server took")


class ScanSettings(Section):
    """Defaults and patience of the plans."""

    arm_timeout_s: float = Field(default=2.0, gt=0, le=60, description="how long a scan waits for the edge, s")
    picture_directory: Path = Field(default=Path("pictures"), description="of the picture of each run")


class Settings(Section):
    """All settings."""

    epics: Epics = Epics()
    beamline: BeamlineSettings = BeamlineSettings()
    geometry: GeometrySettings = GeometrySettings()
    probe: ProbeSettings = ProbeSettings()
    edge: EdgeSettings = EdgeSettings()
    learning: LearningSettings = LearningSettings()
    catalog: CatalogSettings = CatalogSettings()
    scan: ScanSettings = ScanSettings()
    loop: LoopSettings = LoopSettings()

    @model_validator(mode="after")
    def _prefixes_end_with_a_colon(self) -> "Settings":
        for name, value in (
            ("beamline.detector_prefix", self.beamline.detector_prefix),
            ("beamline.stage_prefix", self.beamline.stage_prefix),
            ("beamline.position_table", self.beamline.position_table or ":"),
            ("beamline.flux_scaler", self.beamline.flux_scaler or ":"),
            ("edge.prefix", self.edge.prefix),
        ):
            if not value.endswith(":"):
                raise ValueError(f"{name} = {value!r} must end with a colon, such as 'BL:EIG:'")
        return self

    @model_validator(mode="after")
    def _frames_have_a_place(self) -> "Settings":
        if self.loop.transfer == "rsync" and not self.loop.transfer_to:
            raise ValueError("loop.transfer = 'rsync' needs loop.transfer_to = 'host:/folder', where the jobs find it")
        return self

    @model_validator(mode="after")
    def _ranks_have_a_launcher(self) -> "Settings":
        if self.loop.ranks > 1 and not self.loop.launcher:
            raise ValueError(f"loop.ranks = {self.loop.ranks} needs loop.launcher = 'srun' or 'mpiexec', to start them")
        return self

    def apply_epics_environment(self) -> None:
        """Set the EPICS variables of the settings; call before a CA or PVA library is imported."""
        self.epics.apply()


def settings_path(path: Path | str | None = None) -> Path | None:
    """The settings file in force: the named one, else that of the variable or of the working directory, else none."""
    found = path or os.environ.get(VARIABLE) or (FILE_NAME if Path(FILE_NAME).is_file() else None)
    return Path(found) if found else None


def load_settings(path: Path | str | None = None) -> Settings:
    """Read and check the settings.

    Relative paths in the file are relative to the file's own folder.

    Parameters
    ----------
    path : path, optional
        The TOML file; without it, the one of ``BLUESKY_PTYCHONN_SETTINGS`` or of the working directory, else defaults.

    Raises
    ------
    SettingsError
        If the file is missing, torn, or holds an unknown key or a value out of range; each one is named.
    """
    found = settings_path(path)
    if found is None:
        return Settings()
    raw = read_tables(found)
    try:
        return Settings.model_validate(_absolute(_with_loop_directory(raw), found.resolve().parent))
    except ValidationError as error:
        raise SettingsError(f"settings file {str(found)!r}:\n" + "\n".join(problems(error, raw, Settings))) from error


def read_tables(path: Path) -> dict[str, Any]:
    """What a settings file says, not checked yet.

    Raises
    ------
    SettingsError
        If it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"settings file {str(path)!r} cannot be read ({error.strerror}); check --settings, or make one with "
            "`bluesky-ptychonn config init`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {str(path)!r} is not valid TOML: {error}") from error


PATH_KEYS = {
    "data_directory",
    "bad_pixels_file",
    "file",
    "model",
    "backup_directory",
    "api_key_file",
    "picture_directory",
    "directory",
    "journal",
    "ssh_config",
}


def _with_loop_directory(raw: dict[str, Any]) -> dict[str, Any]:
    """Name the default too: session and loop may start in different folders and must find the same journal."""
    table = raw.get("loop", {})
    return {**raw, "loop": {"directory": "loop", **table}} if isinstance(table, dict) else raw


def _absolute(raw: Mapping[str, Any], base: Path) -> dict[str, Any]:
    return {
        key: _absolute(value, base)
        if isinstance(value, Mapping)
        else Path(value if key == "model" and value in PACKAGED else base / value)
        if key in PATH_KEYS and isinstance(value, str)
        else value
        for key, value in raw.items()
    }


def write_settings(settings: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write tables of strings, numbers, booleans, lists and string tables as TOML."""
    lines: list[str] = []
    for table, values in settings.items():
        lines += [f"[{table}]", *(f"{key} = {as_toml(value)}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
