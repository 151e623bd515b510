"""The card of a model: what it is, what it takes, how good it is, and how to know that it is unharmed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SCHEMA = 2
PREPARATIONS = ("lift", "counts")
PROBE = "probe.npy"
"""File of the probe that goes with a model."""


@dataclass(frozen=True)
class ModelCard:
    """Everything an engine and an edge must know of a model.

    Graphs take and give float32, batch first. With h = ``patch_px``, N = ``frame_px`` and `core.projection.light`:

    - "lift": the graph takes (B, 3, h, h), real and imaginary part of the lift, and light; it gives (B, 2, h, h), log
      amplitude and phase (rad). The refining graph takes (B, 5, h, h), what the projection asks for, what the first
      graph gave, and light; it gives (B, 2, h, h) to add to that.
    - "counts": the graph takes (B, 1, N, N) counts, 0 where there is no data, and gives the phase (rad) as (B, N, N) or
      (B, 1, N, N), or log amplitude and phase as (B, 2, N, N).

    Parameters
    ----------
    name, version : str
    files : mapping of str to str
        SHA-256 (hex) of each file beside the card.
    frame_px, patch_px : int
        Side of the diffraction patterns, and of the central part of the field that the graph gives: of "counts" all.
    preparation : {"lift", "counts"}
        What the engine does to patterns before the graph.
    pixel_size_um, energy_kev : float or None
        Object pixel size and energy it was trained for; None where any will do, because it learned in pixels from
        many probes.
    reference_counts : float or None
        Photons per frame in the middle of its training. "counts" are multiplied by it and divided by those of the
        probe, the one intensity scale of a run; None, for "counts" only, leaves them as they are.
    graph_file, golden_file : str
        Names among ``files``: the network; patterns, probe and the patches they must give.
    refine_file : str
        Name among ``files`` of the refining graph of "lift"; empty if the first graph's word is the last.
    probe_sha256, corpus, parent : str
        Hash of the probe to use it with, `PROBE` beside the card; snapshot of its corpus; version it came from. Empty
        if none; then the probe of the settings is used.
    training : mapping
        Command, conditions and validation figures.

    Examples
    --------
    >>> card = ModelCard("starter", "000001", {"model.onnx": 64 * "0", "golden.npz": 64 * "0"}, 128, 96, 0.0116, 10.0)
    >>> ModelCard.from_dict(card.to_dict()) == card
    True
    """

    name: str
    version: str
    files: Mapping[str, str]
    frame_px: int
    patch_px: int
    pixel_size_um: float | None
    energy_kev: float | None
    reference_counts: float | None = 1e5
    preparation: str = "lift"
    graph_file: str = "model.onnx"
    refine_file: str = ""
    golden_file: str = "golden.npz"
    probe_sha256: str = ""
    corpus: str = ""
    parent: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("frame_px", "patch_px"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0 or value % 2:
                raise ValueError(f"card: {name} = {value!r} px; it must be a positive even integer")
        if self.patch_px > self.frame_px:
            raise ValueError(f"card: patch_px = {self.patch_px} px; allowed is at most frame_px = {self.frame_px} px")
        for name in ("pixel_size_um", "energy_kev", "reference_counts"):
            value = getattr(self, name)
            if value is None and (name != "reference_counts" or self.preparation == "counts"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"card: {name} = {value!r}; it must be a positive number")
        for name in ("name", "version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(r"[\w.+-]+", value):
                raise ValueError(f"card: {name} = {value!r}; it must be a word of letters, digits and . + - _")
        if self.preparation not in PREPARATIONS:
            raise ValueError(
                f"card: preparation = {self.preparation!r} is unknown; known are {', '.join(PREPARATIONS)}"
            )
        if self.preparation == "counts" and (self.refine_file or self.patch_px != self.frame_px):
            raise ValueError(
                f"card: refine_file = {self.refine_file!r}, patch_px = {self.patch_px} px; a model of counts has one "
                f"graph, and patches as large as its frames of {self.frame_px} px"
            )
        for name, sha256 in self.files.items():
            if not re.fullmatch(r"[\w-][\w.+-]*", name):
                raise ValueError(f"card: files names {name!r}; a file lies beside the card and has a plain name")
            if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise ValueError(f"card: the hash of {name!r} is {sha256!r}; it must be 64 hexadecimal digits")
        for name in ("graph_file", "golden_file", *(("refine_file",) if self.refine_file else ())):
            if getattr(self, name) not in self.files:
                raise ValueError(f"card: {name} = {getattr(self, name)!r} has no hash in files")
        if self.probe_sha256 and self.files.get(PROBE) != self.probe_sha256:
            raise ValueError(f"card: probe_sha256 = {self.probe_sha256[:12]!r}... is not the hash of {PROBE} in files")

    @property
    def sha256(self) -> str:
        """Hash of the graph, or of the hashes of both: the identity of the network, whatever the probe."""
        if not self.refine_file:
            return self.files[self.graph_file]
        return hashlib.sha256((self.files[self.graph_file] + self.files[self.refine_file]).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain values for JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelCard":
        """Build a card from plain values.

        Raises
        ------
        ValueError
            If the schema is another, a value is impossible, or a key is missing or unknown.
        """
        if values.get("schema") != SCHEMA:
            raise ValueError(f"card: schema = {values.get('schema')!r}; this version reads {SCHEMA}")
        given = {key: value for key, value in values.items() if key != "schema"}
        unknown = given.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"card: unknown keys {sorted(unknown)}; the model may be newer than this software")
        for key in ("files", "training"):
            if not isinstance(given.get(key, {}), Mapping):
                raise ValueError(f"card: {key} = {given[key]!r}; it must be a table")
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"card: {error}") from error
