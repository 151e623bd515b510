"""Settings: one TOML file, validated; unknown keys fail.

Every value has a default that fits the simulated beamline; a facility's file names what differs. The file is found
through ``--settings``, else the variable ``BLUESKY_PTYCHONN_SETTINGS``, else ``bluesky_ptychonn.toml`` in the working
directory.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from bluesky_ptychonn.core.optics import Geometry

VARIABLE = "BLUESKY_PTYCHONN_SETTINGS"
FILE_NAME = "bluesky_ptychonn.toml"
METHODS = Literal["poisson", "batched", "epie", "rpie", "ptychi-lsqml", "ptychi-epie", "ptychi-rpie"]
ORIENTATIONS = Literal["identity", "flip_y", "flip_x", "rot180", "transpose", "rot90", "rot270", "antitranspose"]


class SettingsError(ValueError):
    """The settings cannot be used; the message names the key, the value and the remedy."""


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Epics(Section):
    """How clients find the EPICS servers; empty values leave the environment alone."""

    environment: dict[str, str] = Field(default_factory=dict)

    def apply(self) -> None:
        """Set the variables; call before a CA or PVA library is imported."""
        os.environ.update(self.environment)


class BeamlineSettings(Section):
    """PV prefixes, with their trailing colons; where the detector writes (without it, where its FilePath points)."""

    detector_prefix: str = "SIM:EIG:"
    stage_prefix: str = "SIM:STAGE:"
    shutter_pv: str = "SIM:SHUTTER"
    data_directory: Path | None = None
    stream_clock: Literal["detector", "ioc"] = "detector"


class GeometrySettings(Section):
    """The beam, and how frames lie in the detector; patterns have ``frame_px`` pixels, each ``binning`` of its own."""

    energy_kev: float = Field(default=10.0, gt=0.1, lt=200)
    distance_m: float = Field(default=0.9, gt=0.01, lt=100)
    detector_pixel_um: float = Field(default=75.0, gt=1, lt=1000)
    frame_px: int = Field(default=128, ge=16, le=2048, multiple_of=4)
    binning: int = Field(default=1, ge=1, le=8)
    beam_center_px: tuple[float, float] = (64.0, 64.0)
    orientation: ORIENTATIONS = "identity"
    bad_pixels_file: Path | None = None

    @property
    def optics(self) -> "Geometry":
        """Far-field geometry of the patterns."""
        from bluesky_ptychonn.core.optics import Geometry

        return Geometry(self.energy_kev, self.distance_m, self.detector_pixel_um * self.binning, self.frame_px)


class ProbeSettings(Section):
    """The illumination, as a ``.npy`` file of complex64 (frame_px, frame_px)."""

    file: Path | None = None


class EdgeSettings(Section):
    """The streaming service."""

    prefix: str = "ptychonn:"
    engine: Literal["auto", "tensorrt", "torch", "openvino", "onnxruntime", "lift"] = "openvino"
    model: Path | None = None
    batch: int = Field(default=8, ge=1, le=256)
    kept_patches_mb: int = Field(default=512, ge=1, le=65536)
    newest_wins: bool = False
    engine_core: int | None = Field(default=None, ge=0)


class LearningSettings(Section):
    """The gate before the model store, which is ``edge.model``: the mean gain that is asked of a new model."""

    gate_margin: float = Field(default=0.01, ge=0, le=1)


class CatalogSettings(Section):
    """Tiled: an address, or (empty) no catalog. The key comes from a file, never from the settings."""

    uri: str = ""
    api_key_file: Path | None = None
    backup_directory: Path = Path("documents_backup")


class ScanSettings(Section):
    """Defaults and patience of the plans."""

    arm_timeout_s: float = Field(default=2.0, gt=0, le=60)
    picture_directory: Path = Path("pictures")


class LoopSettings(Section):
    """After each scan. With ``enabled`` a session notes its runs in the journal, and `bluesky-ptychonn loop run` acts.

    ``directory`` holds jobs, corpus and pictures, on a disk which the jobs' machine sees, too. ``journal`` is a file on
    a local disk, never on NFS or Lustre (default: in ``directory``). The model store is ``edge.model``. Under Slurm or
    PBS a job gets ``queue``, ``account``, ``walltime_min``, ``nodes``, ``gpus`` (of each node), ``modules`` and
    ``environment``; ``launcher`` starts the ``ranks`` of a training.
    """

    enabled: bool = False
    directory: Path = Path("loop")
    journal: Path | None = None
    runner: Literal["local", "slurm", "pbs"] = "local"
    queue: str = ""
    account: str = ""
    walltime_min: int = Field(default=60, ge=1, le=14400)
    nodes: int = Field(default=1, ge=1, le=1024)
    ranks: int = Field(default=1, ge=1, le=8192)
    gpus: int = Field(default=0, ge=0, le=64)
    modules: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    launcher: Literal["", "srun", "mpiexec"] = ""
    first_scans: int = Field(default=2, ge=0, le=1000)
    mismatch: float = Field(default=0.10, gt=0, lt=1)
    suspend_min: float = Field(default=60.0, ge=0, le=10080)
    residual_drift: float = Field(default=0.15, gt=0, le=10)
    attempts: int = Field(default=3, ge=1, le=100)
    poll_s: float = Field(default=2.0, gt=0, le=600)
    sweep_days: float = Field(default=7.0, ge=0, le=3650)
    sweeps: int = Field(default=60, ge=1, le=10000)
    method: METHODS = "poisson"
    train_minutes: float = Field(default=15.0, gt=0, le=14400)
    recipe: Literal["robust", "large", "tune", "paper"] = "tune"
    warm: bool = True

    @property
    def journal_file(self) -> Path:
        """The journal."""
        return self.journal or self.directory / "journal.sqlite"


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
            ("edge.prefix", self.edge.prefix),
        ):
            if not value.endswith(":"):
                raise ValueError(f"{name} = {value!r} must end with a colon, such as 'BL:EIG:'")
        return self

    @model_validator(mode="after")
    def _ranks_have_a_launcher(self) -> "Settings":
        if self.loop.ranks > 1 and not self.loop.launcher:
            raise ValueError(f"loop.ranks = {self.loop.ranks} needs loop.launcher = 'srun' or 'mpiexec', to start them")
        return self

    def apply_epics_environment(self) -> None:
        """Set the EPICS variables of the settings; call before a CA or PVA library is imported."""
        self.epics.apply()


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
    if path is None:
        path = os.environ.get(VARIABLE) or (FILE_NAME if Path(FILE_NAME).is_file() else None)
    if path is None:
        return Settings()
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"settings file {str(path)!r} cannot be read ({error.strerror}); check --settings"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {str(path)!r} is not valid TOML: {error}") from error
    try:
        return Settings.model_validate(_absolute(_with_loop_directory(raw), path.resolve().parent))
    except ValidationError as error:
        raise SettingsError(f"settings file {str(path)!r}:\n" + "\n".join(_problems(error))) from error


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
}


def _with_loop_directory(raw: dict[str, Any]) -> dict[str, Any]:
    """Name the default too: session and loop may start in different folders and must find the same journal."""
    table = raw.get("loop", {})
    return {**raw, "loop": {"directory": "loop", **table}} if isinstance(table, dict) else raw


def _absolute(raw: Mapping[str, Any], base: Path) -> dict[str, Any]:
    return {
        key: _absolute(value, base)
        if isinstance(value, Mapping)
        else str(base / value)
        if key in PATH_KEYS and isinstance(value, str)
        else value
        for key, value in raw.items()
    }


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            problems.append(f"  {where}: unknown key; known are: {', '.join(_known_keys(item['loc']))}")
        else:
            problems.append(f"  {where} = {item['input']!r}: {item['msg']}")
    return problems


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    return sorted(model.model_fields)


def write_settings(settings: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write tables of strings, numbers, booleans, lists and string tables as TOML."""
    path.write_text(_tables(settings), encoding="utf-8")


def _tables(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    for table, values in settings.items():
        lines.append(f"[{table}]")
        lines += [f"# {key} =" if value is None else f"{key} = {_toml(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def settings_as_toml(settings: Settings) -> str:
    """All settings as the text of a settings file; keys without a value are comments."""
    return _tables(settings.model_dump(mode="json"))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
