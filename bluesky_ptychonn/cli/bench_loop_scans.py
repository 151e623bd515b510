"""The scripted experiment of `bench loop`: its scans, and what the loop is to do about each."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.core.optics import Geometry, intensities, probe_diameter_um, with_counts, zone_plate_probe

if TYPE_CHECKING:
    from bluesky_ptychonn.cli.loop_events import Event

GEOMETRY = Geometry(frame_px=64, distance_m=0.45)
DEFOCUS_UM, DRIFTED_UM = 100.0, 125.0
FIELD_UM, STEP_UM = 1.4, 0.075
SPARSE_FIELD_UM, SPARSE_OVERLAP = 2.2, 0.3
PHOTONS, LOW_LIGHT = 4e6, 300.0
RING_UM, RINGS_SHARE = (0.12, 0.21), 0.6
"""Inner and outer diameter of a ring, and the share of the area that all would take if none lay on another."""
DECISIVE = ("alarm", "not trusted", "suspends")
"""Events of which there must be no others than in the script; versions may come beside those that must."""


@dataclass(frozen=True)
class Scripted:
    """One scan, and what is expected.

    Parameters
    ----------
    title : str
        For the plot.
    why : str
        What the loop is to do about it, and why.
    state : str
        In which it must end.
    events : tuple of str
        That must happen, see `loop_events`; of `DECISIVE` no others.
    feature : {"islands", "rings"}
    drifted : bool
        The true probe has another defocus than the one that is told.
    sparse, dark : bool
        Too little overlap, or light, to be reconstructed.
    """

    title: str
    why: str
    state: str
    events: tuple[str, ...]
    feature: str
    drifted: bool = False
    sparse: bool = False
    dark: bool = False

    @property
    def is_good(self) -> bool:
        """Whether a reconstruction of it can be trusted."""
        return not (self.sparse or self.dark)

    def is_met(self, state: str, found: "list[Event]") -> bool:
        """Whether the loop did what is expected."""
        kinds = {event.kind for event in found}
        decisive = {kind for kind in kinds if kind in DECISIVE}
        return state == self.state and decisive == set(self.events) & set(DECISIVE) and kinds >= set(self.events)


SCRIPT = (
    Scripted("islands", "the first scans are always reconstructed", "validated", ("suspends",), "islands"),
    Scripted("islands", "so is the second; the model is good: suspended", "validated", ("suspends",), "islands"),
    Scripted("islands", "suspended: its residual is as before", "suspended", (), "islands"),
    Scripted(
        "islands, low light",
        "its residual is an alarm, its reconstruction not trusted: no labels, and the suspension goes on",
        "validated",
        ("alarm", "not trusted"),
        "islands",
        dark=True,
    ),
    Scripted("islands", "the suspension has gone on", "suspended", (), "islands"),
    Scripted(
        "rings, new features",
        "its residual ends the suspension, it mismatches: retrained",
        "published",
        ("alarm", "retrained"),
        "rings",
    ),
    Scripted(
        "rings, overlap 0.3",
        "no longer suspended, so it is reconstructed; phase retrieval fails: no labels, nothing is triggered",
        "validated",
        ("not trusted",),
        "rings",
        sparse=True,
    ),
    Scripted("rings", "the retrained model does the new features: suspended", "validated", ("suspends",), "rings"),
    Scripted("rings", "suspended: its residual is as before", "suspended", (), "rings"),
    Scripted(
        "rings, defocus +25 %",
        "its residual ends the suspension, it mismatches: the refined probe goes live, then a training",
        "published",
        ("alarm", "probe"),
        "rings",
        drifted=True,
    ),
    Scripted("rings, defocus +25 %", "recovered: suspended", "validated", ("suspends",), "rings", drifted=True),
    Scripted("rings, defocus +25 %", "suspended: its residual is as before", "suspended", (), "rings", drifted=True),
)


def write_scan(path: Path, scripted: Scripted, seed: int) -> dict[str, str]:
    """Simulate a scan of an area of its own into an NPZ file.

    Parameters
    ----------
    path : Path
    scripted : Scripted
    seed : int
        Of area and photon noise.

    Returns
    -------
    dict
        ``source`` for the start document.
    """
    from bluesky_ptychonn.core.scan import fermat_spiral

    rng, pixel_um = np.random.default_rng(seed), GEOMETRY.pixel_size_um
    told = zone_plate_probe(GEOMETRY, defocus_um=DEFOCUS_UM)
    true = zone_plate_probe(GEOMETRY, defocus_um=DRIFTED_UM) if scripted.drifted else told
    field_um, step_um = FIELD_UM, STEP_UM
    if scripted.sparse:
        field_um, step_um = SPARSE_FIELD_UM, (1 - SPARSE_OVERLAP) * probe_diameter_um(told, pixel_um)
    places_um = fermat_spiral(field_um, field_um, step_um)
    side_px = 2 * int(field_um / pixel_um / 2 + GEOMETRY.frame_px / 2 + 4)
    object_ = draw_area(scripted.feature, side_px, seed)
    bright = with_counts(true, LOW_LIGHT if scripted.dark else PHOTONS)
    patterns = rng.poisson(intensities(object_, bright, places_um / pixel_um + side_px / 2)).astype(np.uint16)
    known: dict[str, Any] = {name: getattr(GEOMETRY, name) for name in ("energy_kev", "distance_m")}
    known["detector_pixel_um"] = GEOMETRY.detector_pixel_um
    np.savez(path, patterns=patterns, positions_um=places_um, probe=told, **known)
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def draw_area(feature: str, side_px: int, seed: int) -> np.ndarray:
    """Transmission (side_px, side_px) complex64 of an area with islands, or with rings that are twice as thick."""
    from scipy.ndimage import gaussian_filter

    from bluesky_ptychonn.simulation.sample import ABSORBED, DEEPEST_RAD, make_sample

    pixel_um = GEOMETRY.pixel_size_um
    if feature == "islands":
        return make_sample("islands", field_um=side_px * pixel_um, pixel_size_um=pixel_um, seed=seed)
    rng, (inner_px, outer_px) = np.random.default_rng(seed), np.divide(RING_UM, 2 * pixel_um)
    y, x = np.indices((side_px, side_px))
    depth = np.zeros((side_px, side_px), np.float32)
    for middle in rng.uniform(0, side_px, (int(RINGS_SHARE * side_px**2 / (np.pi * outer_px**2)), 2)):
        radius_px = np.hypot(y - middle[0], x - middle[1])
        depth[radius_px < outer_px] = 1
        depth[radius_px < inner_px] = 0
    depth = gaussian_filter(depth, 0.8)
    return (((1 - ABSORBED * depth) * np.exp(1j * DEEPEST_RAD * depth)) ** 2).astype(np.complex64)


def publish_starter(store: Path, folder: Path) -> str:
    """Publish the packaged starter for frames as small as these; its network knows pixels and probes of any size.

    Returns
    -------
    str
        Its version.
    """
    from bluesky_ptychonn.engines.registry import STARTER
    from bluesky_ptychonn.io.model_store import open_model, publish
    from bluesky_ptychonn.training.learning.checkpoint import write_checkpoint
    from bluesky_ptychonn.training.learning.export import export
    from bluesky_ptychonn.training.learning.warm import network_of

    starter = open_model(STARTER)
    network, about = network_of(starter)
    figures = {"command": "train", "conditions": starter.card.training["conditions"], "results": []}
    folder.mkdir(parents=True)
    write_checkpoint(folder, {**about, "kept": network.state_dict(), "figures": figures})
    export(folder, folder / "model", name="starter", version="starter-64", frame_px=GEOMETRY.frame_px)
    model = open_model(folder / "model")
    return publish(store, model.card, {name: (model.directory / name).read_bytes() for name in model.card.files})
