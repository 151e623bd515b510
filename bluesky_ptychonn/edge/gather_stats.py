"""What the channel `stats` says of a run that several consumers share."""

from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import named
from bluesky_ptychonn.edge.gathered_run import GatheredRun
from bluesky_ptychonn.edge.shares import Shares

WORST = ("latency_ms_p50", "latency_ms_p99", "latency_ms_max", "gap_ms_max")
"""Of these the stats show the consumer that has the largest."""
LONGEST = 400
"""Characters of a message."""


def engine_stats(shares: Shares) -> dict[str, Any]:
    """Engines and models of the consumers that are there."""
    said = [report.said for report in shares.present()]

    def all_of(name: str) -> str:
        return ", ".join(sorted({words[name] for words in said} - {""}))

    engine = all_of("engine")
    return {
        "engine": f"{len(said)} x {engine}" if said else "no consumer",
        "model_version": all_of("model_version"),
        "model_hash": all_of("model_hash"),
    }


def gathered_stats(run: GatheredRun, shares: Shares, state: str, text: str) -> dict[str, Any]:
    """Fields of `io.edge_channels.STATS` that belong to a run.

    Parameters
    ----------
    run : GatheredRun
    shares : Shares
    state, text : str
        Of the gatherer, and what it has to say; it goes before what run and consumers have.
    """
    final, roll, account, counts = state == "final", run.roll, run.account, run.counts()
    said = [share.latest.said for share in shares.of_run()]
    counted = [words["latency_counts"] for words in said if len(words["latency_counts"])]
    here = len(shares.present())
    told = [f"consumer {words['consumer']}: {words['message']}" for words in said if words["message"]]
    absent = f"{here} of {shares.expected} consumers are there" if here < shares.expected else ""
    if state == "idle" and not roll.ready:
        absent = absent or f"waiting for the image channel {run.message.image_channel}"
    text = "; ".join([text] if text else [part for part in (run.text, run.first.problem, *told, absent) if part])
    done = sum(len(share.latest.ids) for share in shares.of_run())
    return {
        **engine_stats(shares),
        "run_uid": run.message.run_uid,
        "frames_planned": run.message.frames,
        "frames_triggered": _or_unknown(account.triggered),
        "frames_received": len(counts.ids) + counts.waiting,
        "frames_stitched": counts.stitched,
        "frames_no_beam": len(counts.no_beam_triggers),
        "frames_unpaired": counts.unpaired,
        "frames_shed": counts.shed,
        "frames_rejected": counts.rejected,
        "frames_foreign": counts.foreign,
        "frames_lost_detector": _or_unknown(account.lost_in_detector) if final else roll.pairing.hidden,
        "frames_lost_plugin": _or_unknown(account.lost_in_plugin),
        "frames_lost_wire": _or_unknown(account.lost_on_wire),
        "account": "; ".join([account.state, *account.problems()]) if final else "open",
        "pairing": f"doubtful: {roll.pairing.doubt}" if roll.pairing.doubt else "ok",
        "fps": sum(words["fps"] for words in said),
        **{name: max((words[name] for words in said), default=0.0) for name in WORST},
        "latency_counts": np.sum(counted, axis=0) if counted else [],
        "cpu_us_per_frame": sum(
            share.latest.said["cpu_us_per_frame"] * len(share.latest.ids) for share in shares.of_run()
        )
        / max(1, done),
        "queue_used": counts.waiting,
        "queue_size": sum(words["ring_size"] for words in said),
        "intensity_scale": max((words["intensity_scale"] for words in said), default=0.0),
        "masked_fraction": max((words["masked_fraction"] for words in said), default=0.0),
        "positions_source": run.positions_source,
        "no_beam_triggers": named(counts.no_beam_triggers) if final else "",
        "message": text if len(text) <= LONGEST else f"{text[:LONGEST]} ...",
    }


def _or_unknown(count: int | None) -> int:
    return -1 if count is None else count
