"""Drive one random run through the edge, and hold what the edge says of it against the truth."""

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
from edge_world import DROPPED, IMAGE
from torture import DETECTOR, GEOMETRY, OK, PATCH_PX, PIXEL_UM, PLUGIN, UNSENT, WIRE, Run, places_um
from torture_world import DARK, KEPT_PATCHES, ODD, POISON, SLOW, TortureWorld

PATIENCE_S = 20.0
QUIET_S = 0.3
"""So long the edge waits for frames that are missing at the end."""
NOT_SEEN = (UNSENT, DETECTOR, PLUGIN, WIRE, "bad empty")
BRIDGED = 150
"""Triggers without a frame that the detector's clock bridges for sure."""


class BrokenLawError(AssertionError):
    """A law does not hold."""


def law(holds: Any, text: str) -> None:
    if not holds:
        raise BrokenLawError(text)


class Truth:
    """What was sent in a run."""

    def __init__(self, run: Run) -> None:
        self.received, self.foreign, self.missing_ids = received(run, [item for part in run.segments for item in part])
        self.received_before = received(run, run.segments[0])[0]
        fates = run.fates[: run.frames]
        self.stamps = {slot: run.offset + slot for slot, fate in enumerate(fates) if fate in (OK, SLOW)}
        self.stamps |= {slot: 0 for slot, fate in enumerate(fates) if fate == DARK}
        self.bad = sum(fate.startswith("bad ") and fate != "bad empty" for fate in fates)
        self.poisoned = fates.count(POISON)
        self.dark = fates.count(DARK)
        self.holds = self._holds(run, fates)

    def _holds(self, run: Run, fates: list[str]) -> bool:
        """Whether the pairing has all it needs to be sure of every frame."""
        calm = run.theme not in ("restart", "lies", "odd") or self.untouched(run)
        ended = run.triggered == len(fates) or (run.triggered < 0 and run.status == "success" and not run.captured)
        seen = [slot for slot, fate in enumerate(fates) if fate not in NOT_SEEN]
        if not (calm and ended and seen and not run.disordered and run.ends) or seen[-1] != len(fates) - 1:
            return False
        hidden = [slot for slot, fate in enumerate(fates) if fate in (UNSENT, DETECTOR)]
        near = all(after - before < BRIDGED for before, after in pairwise(seen))
        return not hidden or (run.timed and hidden[0] > seen[0] and near)

    def untouched(self, run: Run) -> bool:
        """Whether the image server was restarted before the first frame only, and could be found again."""
        return run.theme == "restart" and not run.segments[0] and run.pause_s > 0


def received(run: Run, items: list[list[Any]]) -> tuple[int, int, int]:
    """Frames of the run, each id once and in order; updates which are none; ids between them which never came."""
    last, count, foreign, missing = run.first_id - 1, 0, 0, 0
    for what, _, unique_id, _, age_s in items:
        if what in ("lost", "odd", "bad empty"):
            continue
        if not 0 <= unique_id - run.first_id < run.frames or unique_id <= last or (run.clock == "ioc" and age_s):
            foreign += 1
        else:
            count, missing, last = count + 1, missing + unique_id - last - 1, unique_id
    return count, foreign, missing


class Torturer:
    """Runs one after the other, and counts what was met.

    Parameters
    ----------
    world : TortureWorld
    """

    def __init__(self, world: TortureWorld) -> None:
        self.world = world
        self.met: Counter[str] = Counter()
        self.memory_kib: list[tuple[float, float]] = []
        """After each run; see `TortureWorld.edge_memory_kib`."""
        self._refused = world.stats()["runs_refused"]
        self._under_way = False
        self._ending_s = 0.0

    def torture(self, run: Run) -> None:
        """Do a run and check it.

        Raises
        ------
        BrokenLawError
            If a law does not hold.
        """
        truth = Truth(run)
        self._arm(run)
        if run.theme == "odd" and run.image_channel == ODD["missing"]:
            law(not self.world.stats()["armed_uid"], "an image channel that is not there has armed the run")
        else:
            self._send(run, truth)
        stats = self._end(run, truth) if run.ends else self._leave(run, truth)
        if run.ends or not run.hasty:
            check_account(run, truth, stats)
        if run.ends:
            for name in ("final", "stitched"):
                check_places(run, truth, stats, *self.world.image(name), captured=name == "final")
        law(
            stats["runs_refused"] == self._refused,
            f"{stats['runs_refused']} messages refused where {self._refused} were bad; {stats['message']}",
        )
        self.memory_kib.append(self.world.edge_memory_kib())
        self._count(run, stats)

    def _put(self, channel: str, values: dict[str, Any], bad: dict[str, Any] | None = None) -> None:
        """Write a message; a bad one is to be refused."""
        change = bad or {"values": {}, "types": {}}
        self.world.call("client", put=channel, values={**values, **change["values"]}, types=change["types"])
        if bad is not None:
            self._refused += 1
            self.met["bad messages"] += 1
            try:
                self.world.until(3, runs_refused=self._refused)
            except TimeoutError as error:
                raise BrokenLawError(f"not refused, or not counted: {channel} with {change}; {error}") from None

    def _arm(self, run: Run) -> None:
        message = run.message(time.time() - 1 if run.clock == "ioc" else 0.0)
        for bad in run.bad_runs[:1]:
            if self._under_way or not bad["types"]:  # a field of another type may keep the value it had
                self._put("run", plain_message("guess" if self._under_way else run.token), bad)
        if self._under_way:
            self._put("run", {**message, "token": "guess"}, {"values": {}, "types": {}})
        self._put("run", message)
        key = "run_uid" if run.image_channel == ODD["missing"] else "armed_uid"
        self.world.until(PATIENCE_S, **{key: run.uid})
        self._under_way = True

    def _send(self, run: Run, truth: Truth) -> None:
        world, layout = self.world, {"shape": run.shape, "dtype": run.dtype, "codec": run.codec}
        for bad in run.bad_runs[1:]:
            self._put("run", plain_message("guess"), bad)
        for bad in run.bad_positions:
            message = {**run.positions(), "trigger_index": [0, 1], "y_um": [0.0] * 2, "x_um": [0.0] * 2}
            self._put("positions", message, bad)
        world.call("source", items=run.segments[0], **layout)
        for segment in run.segments[1:]:
            if run.theme == "restart":
                self._restart(run, truth)
            elif run.theme == "contested":
                self._put("run", {**run.message(0.0), "token": "guess"}, {"values": {}, "types": {}})
                self._put("positions", {**run.positions(), "token": ""}, {"values": {}, "types": {}})
            world.send("source", items=segment, **layout)
            if run.theme == "early":
                self._put_end(run)
            world.answer("source")

    def _restart(self, run: Run, truth: Truth) -> None:
        self.world.until(PATIENCE_S, frames_received=truth.received_before)
        self.world.restart_source(in_order=run.in_order)
        time.sleep(run.pause_s)

    def _end(self, run: Run, truth: Truth) -> dict[str, Any]:
        time.sleep(run.delay_s)
        if run.theme != "early":
            self._put_end(run)
        while (stats := self.world.stats())["final_uid"] != run.uid:
            law(stats["state"] != "failed", f"the edge gave the run up: {stats['message']}")
            law(time.monotonic() < self._ending_s + PATIENCE_S, f"not final in {PATIENCE_S} s: {stats}")
            time.sleep(0.02)
        self._under_way = False
        waited_s = time.monotonic() - self._ending_s
        if run.theme == "early" and waited_s < QUIET_S:
            law(stats["frames_received"] == truth.received, f"the edge waited {waited_s:.2f} s for the first frames")
        return stats

    def _put_end(self, run: Run) -> None:
        self._ending_s = time.monotonic()
        self._put("positions", run.positions())

    def _leave(self, run: Run, truth: Truth) -> dict[str, Any]:
        """The run is never ended; if there is time, all its frames go somewhere."""
        if run.hasty:
            return self.world.stats()
        received = truth.received if run.image_channel == IMAGE else 0
        return self.world.until(PATIENCE_S, run_uid=run.uid, frames_received=received, queue_used=0)

    def _count(self, run: Run, stats: dict[str, Any]) -> None:
        self.met["runs"] += 1
        for name in ("stitched", "unpaired", "shed", "rejected", "foreign"):
            self.met[name] += stats[f"frames_{name}"]
        self.met["bad frames"] += sum(fate.startswith("bad ") for fate in run.fates)
        self.met[f"account {stats['account'].split(';')[0]}"] += 1
        self.met[f"pairing {stats['pairing'].split(':')[0]}"] += 1


def plain_message(token: str) -> dict[str, Any]:
    """A run message of nine frames with which nothing is wrong."""
    place = places_um(9)
    return {
        "run_uid": "bad", "token": token, "image_channel": IMAGE, "frames": 9, "y_um": place[:, 0].tolist(),
        "x_um": place[:, 1].tolist(), "exposure_s": 5e-4, "dwell_s": 1e-3, "frame_shape": [16, 16], "binning": 1,
        "beam_center_px": [8.0, 8.0], "orientation": "identity", "first_unique_id": 0, "clock": "ioc",
        "frames_after_s": 0.0, "dropped_channel": DROPPED, **GEOMETRY,
    }  # fmt: skip


def check_account(run: Run, truth: Truth, stats: dict[str, Any]) -> None:
    """Every frame is somewhere, and the account says so in the right word."""
    counts = {name.removeprefix("frames_"): value for name, value in stats.items() if name.startswith("frames_")}
    went = sum(counts[name] for name in ("stitched", "unpaired", "shed", "rejected"))
    if run.ends:
        law(went == counts["received"], f"{counts['received']} frames received, {went} accounted for: {stats}")
    law(counts["planned"] == run.frames, f"{counts['planned']} planned")
    low = expected = truth.received if run.image_channel == IMAGE else 0
    if run.theme == "restart" and not truth.untouched(run):
        low = truth.received_before + (run.pause_s > 0 and truth.received > truth.received_before)
    elif run.theme == "early":
        low = truth.received_before
    law(low <= counts["received"] <= expected, f"{counts['received']} frames received, {low} to {expected} came")
    all_came = counts["received"] == expected and run.image_channel == IMAGE
    if low == expected and all_came:
        law(counts["foreign"] == truth.foreign, f"{counts['foreign']} updates foreign, {truth.foreign} were")
    if not run.ends:
        law(stats["account"].startswith("open"), f"the account of a run under way is {stats['account']}")
        return
    told = {"triggered": run.triggered, "lost_detector": run.lost_in_detector, "lost_plugin": run.lost_in_plugin}
    for name, count in told.items():
        law(counts[name] == max(-1, count), f"{counts[name]} {name}, {count} was told")
    if all_came:
        on_wire = max(0, truth.missing_ids - run.lost_in_plugin) if run.lost_in_plugin >= 0 else -1
        law(counts["lost_wire"] == on_wire, f"{counts['lost_wire']} lost on the wire, not {on_wire}")
    word, text = right_account(counts)
    law(stats["account"].split(";")[0] == word and text in stats["account"], f"{stats['account']!r}, not {word} {text}")
    if truth.holds and all_came:
        law(stats["pairing"] == "ok" and not counts["unpaired"], f"in doubt without a reason: {stats}")
        most = truth.bad + 2 * truth.dark + 8 * bool(truth.dark) + 8 * truth.poisoned
        law(truth.bad <= counts["rejected"] <= most, f"{counts['rejected']} rejected, {truth.bad} to {most} were bad")
    if run.frames <= 64:
        law(not counts["shed"], f"{counts['shed']} frames shed though the ring has room for all")


def right_account(counts: dict[str, int]) -> tuple[str, str]:
    """The word for an account of these counts, and what it must say besides."""
    names = ("lost_detector", "lost_plugin", "lost_wire")
    unknown = [name for name in names if counts[name] < 0]
    if counts["triggered"] < 0:
        return "open", ""
    if counts["triggered"] > counts["planned"]:
        return "wrong", "not_sent"
    missing = counts["triggered"] - counts["received"] - sum(max(0, counts[name]) for name in names)
    if missing < 0:
        return "wrong", f"{-missing} too many"
    if missing and not unknown:
        return "wrong", f"{missing} unaccounted for"
    return ("open", "") if unknown else ("closed", "")


def check_places(
    run: Run, truth: Truth, stats: dict[str, Any], image: np.ndarray, attributes: dict[str, Any], *, captured: bool
) -> None:
    """Each patch of the image shows the frame of the trigger at whose position it lies, and nothing else is there."""
    law(attributes["run_uid"] == run.uid, f"the image is of {attributes['run_uid']}")
    origin_um = attributes["origin_y_um"], attributes["origin_x_um"]
    planned_um = places_um(run.frames)
    place_um = planned_um.copy()
    for slot, (y_um, x_um) in run.captured.items() if captured else ():
        if slot < run.frames and abs(y_um) < 1e3:
            place_um[slot] = y_um, x_um
    expected, shown, strayed = np.full(image.shape, np.nan, np.float32), 0, 0
    for slot, stamp in truth.stamps.items():
        for strays, place in enumerate((place_um[slot], planned_um[slot])):
            y, x = np.rint(np.subtract(place, origin_um) / PIXEL_UM).astype(int) - PATCH_PX // 2
            here = slice(y, y + PATCH_PX), slice(x, x + PATCH_PX)
            if (image[here] == stamp).all():
                expected[here] = stamp
                shown, strayed = shown + 1, strayed + strays
                break
    wrong = ~((image == expected) | (np.isnan(image) & np.isnan(expected)))
    law(not wrong.any(), f"{wrong.sum()} px show {np.unique(image[wrong])[:9]}, stamps from {run.offset} on")
    law(shown == stats["frames_stitched"], f"{shown} patches in the image, {stats['frames_stitched']} stitched")
    law(strayed <= max(0, run.frames - KEPT_PATCHES), f"{strayed} patches are not where their positions were captured")
