"""What `center` leaves: a picture, and the settings file with beam centre and mask."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.config import GeometrySettings, Settings, SettingsError, load_settings
from bluesky_ptychonn.core.beam_center import BeamCenter
from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.io.durable import replace_file

MASK_FILE = "bad_pixels.npy"


def save_picture(
    path: Path, frames: np.ndarray, bad_pixels: np.ndarray, beam: BeamCenter, geometry: GeometrySettings
) -> None:
    """Draw the mean frame with centre, cone, crop and bad pixels, and what is not the same when turned by half."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Rectangle

    measured = frames != no_data(frames.dtype)
    mean = frames.sum(axis=0, where=measured, dtype=np.float64) / np.maximum(measured.sum(axis=0), 1)
    lit = np.where(bad_pixels, np.nan, np.maximum(mean, 1e-2))
    y, x = beam.center_px
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    top = max(float(np.nanmax(lit)), 1.0)
    for axes, behind in ((left, "#d62728"), (right, "#d0d0d0")):
        axes.set_facecolor(behind)  # shows where there is nothing
        axes.set_xlabel("column (px)")
    shown = left.imshow(lit, cmap="gray", norm=LogNorm(max(1e-4 * top, 1e-2), top), interpolation="nearest")
    figure.colorbar(shown, ax=left, label="mean counts", shrink=0.8)
    left.plot(x, y, "+", color="#1f77b4", markersize=14)
    left.add_patch(Circle((x, y), beam.radius_px, fill=False, color="#1f77b4", linewidth=0.8))
    side = geometry.frame_px * geometry.binning
    corner = (x - side / 2 - 0.5, y - side / 2 - 0.5)
    left.add_patch(Rectangle(corner, side, side, fill=False, color="#ff7f0e", linewidth=0.8, linestyle="--"))
    left.set(xlim=(-0.5, mean.shape[1] - 0.5), ylim=(mean.shape[0] - 0.5, -0.5))
    left.set_title(f"centre ({y:.2f}, {x:.2f}) ± {beam.margin_px:.2f} px; red: {int(bad_pixels.sum())} bad pixels")
    left.set_ylabel("row (px)")
    right.set_title("square root of the mean, minus the same turned by half")
    rest, limit = _asymmetry(lit, beam.center_px), np.sqrt(top) / 4
    shown = right.imshow(rest, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(shown, ax=right, shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _asymmetry(image: np.ndarray, center_px: tuple[float, float]) -> np.ndarray:
    y, x = np.indices(image.shape)
    mirror = [np.rint(2 * place - index).astype(int) for place, index in zip(center_px, (y, x))]
    inside = np.all([(place >= 0) & (place < size) for place, size in zip(mirror, image.shape)], axis=0)
    turned = image[tuple(np.where(inside, place, 0) for place in mirror)]
    return np.where(inside, np.sqrt(image) - np.sqrt(turned), np.nan)


def write_into_settings(path: Path, settings: Settings, bad_pixels: np.ndarray, beam: BeamCenter) -> str:
    """Put the centre into a settings file and the mask beside it; returns what was done."""
    mask, kept = with_known(bad_pixels, settings)
    file = path.resolve().parent / MASK_FILE
    buffer = io.BytesIO()
    np.save(buffer, mask, allow_pickle=False)
    replace_file(file, buffer.getvalue())
    center = [round(place, 2) for place in beam.center_px]
    change_settings(path, {"geometry": {"beam_center_px": center, "bad_pixels_file": MASK_FILE}})
    was = settings.geometry.beam_center_px
    return (
        f"{path}: geometry.beam_center_px = {center} (was {list(was)}), bad_pixels_file = {MASK_FILE!r} with "
        f"{int(mask.sum())} pixels{', those of the mask before among them' if kept else ''}"
    )


def with_known(bad_pixels: np.ndarray, settings: Settings) -> tuple[np.ndarray, bool]:
    """A mask with the pixels of the present one, and whether there is one that fits.

    They stay bad: they may have been found in brighter light.
    """
    from bluesky_ptychonn.cli.doctor_checks import read_mask

    before = settings.geometry.bad_pixels_file
    known = read_mask(before) if before is not None and before.is_file() else None
    if isinstance(known, np.ndarray) and known.shape == bad_pixels.shape:
        return known | bad_pixels, True
    return bad_pixels, False


def change_settings(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set keys in a settings file; everything else in it, comments too, stays as it is.

    Raises
    ------
    SettingsError
        If the result would be no valid settings; the file is unchanged then.
    """
    import tomlkit

    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    for table, values in changes.items():
        if table not in document:
            document[table] = tomlkit.table()
        for key, value in values.items():
            document[table][key] = value  # type: ignore[index]
    text = tomlkit.dumps(document)
    trial = path.with_name(f".{path.name}.trial")
    try:
        trial.write_text(text, encoding="utf-8")
        load_settings(trial)
    except SettingsError as error:
        raise SettingsError(f"{path} is left as it was: {error}") from error
    finally:
        trial.unlink(missing_ok=True)
    replace_file(path, text.encode())
