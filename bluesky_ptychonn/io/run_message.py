"""What the edge must know of a run, live and in a replay."""

from collections.abc import Mapping
from typing import Any

from bluesky_ptychonn.core.beam import MIN_COUNTS
from bluesky_ptychonn.core.scan import positions_from_recipe
from bluesky_ptychonn.io.edge_channels import RunMessage

FRAME_FIELDS = (
    "image_channel",
    "energy_kev",
    "distance_m",
    "detector_pixel_um",
    "exposure_s",
    "frame_shape",
    "crop_px",
    "beam_center_px",
    "orientation",
    "first_unique_id",
    "clock",
    "frames_after_s",
    "dropped_channel",
)


def run_message(start: Mapping[str, Any], token: str = "") -> RunMessage:
    """What the edge must know of a run, from its start document.

    Raises
    ------
    ValueError
        If the document lacks something, or holds what cannot be.
    """
    block = start["ptycho"]
    if missing := [name for name in (*FRAME_FIELDS, "dwell_s", "fly", "center_um") if name not in block]:
        raise ValueError(f"run {start['uid']}: its 'ptycho' block lacks {', '.join(missing)}; export it as a scan file")
    if "plan_pattern_args" not in start:
        raise ValueError(f"run {start['uid']} lacks plan_pattern_args, so its planned positions are not known")
    planned_um = positions_from_recipe(start)
    return RunMessage(
        run_uid=start["uid"],
        token=token,
        frames=len(planned_um),
        y_um=planned_um[:, 0],
        x_um=planned_um[:, 1],
        dwell_s=block["dwell_s"] if block["fly"] else 0.0,
        binning=block.get("binning", 1),
        min_counts=block.get("min_counts", MIN_COUNTS),
        **{name: block[name] for name in FRAME_FIELDS},
    )
