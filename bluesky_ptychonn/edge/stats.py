"""What the channels say of a run."""

from typing import Any

from bluesky_ptychonn.core.beam import named
from bluesky_ptychonn.edge.live_run import LiveRun


def run_stats(run: LiveRun, state: str, text: str) -> dict[str, Any]:
    """Fields of `io.edge_channels.STATS` that belong to a run.

    Parameters
    ----------
    run : LiveRun
    state : str
        Of the service.
    text : str
        What the service has to say; it goes before what the run has.
    """
    intake, account = run.intake, run.account
    ring = intake.ring
    final = state == "final"
    text = text or run.message_text or run.light.message_text or intake.problem
    if state == "idle":
        text = text or f"waiting for the image channel {run.message.image_channel}"
    if intake.overruns:
        text = text or f"the monitor's queue overran {intake.overruns} times"
    return {
        **run.figures(),
        "run_uid": run.message.run_uid,
        "frames_planned": run.message.frames,
        "frames_triggered": _or_unknown(account.triggered),
        "frames_received": intake.pairing.received,
        **{f"frames_{name}": count for name, count in run.frame_counts().items()},
        "frames_guessed": run.hurry.guessed,
        "frames_foreign": intake.pairing.foreign,
        "frames_lost_detector": _or_unknown(account.lost_in_detector) if final else intake.pairing.hidden,
        "frames_lost_plugin": _or_unknown(account.lost_in_plugin),
        "frames_lost_wire": _or_unknown(account.lost_on_wire),
        "account": "; ".join([account.state, *account.problems()]) if final else "open",
        "pairing": f"doubtful: {intake.pairing.doubt}" if intake.pairing.doubt else "ok",
        "queue_used": intake.queue_used,
        "queue_size": ring.size if ring is not None else 0,
        "intensity_scale": run.light.intensity_scale,
        "masked_fraction": run.masked_fraction,
        "positions_source": run.positions_source,
        "no_beam_triggers": named(run.image.hidden) if final else "",
        "probe_swaps": run.light.probe_swaps,
        "message": text,
    }


def image_attributes(run: LiveRun) -> dict[str, Any]:
    """What travels with the images of a run."""
    card, versions = run.engine.card, run.model_versions
    return {
        "run_uid": run.message.run_uid,
        "engine": run.engine.name,
        "model_version": versions[-1] if versions else card.version if card else "",
        "model_versions": ", ".join(versions),
        "positions_source": run.positions_source,
        "intensity_scale": run.light.intensity_scale,
        "masked_fraction": run.masked_fraction,
        "frames_stitched": run.image.patches,
        "frames_no_beam": len(run.image.hidden),
        "no_beam_triggers": named(run.image.hidden),
    }


def _or_unknown(count: int | None) -> int:
    return -1 if count is None else count
