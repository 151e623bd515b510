"""One run of a ptychography scan: stage, arm, measure, record, and put everything back whatever happens."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.protocols import Flyable, Readable
from bluesky.utils import MsgGenerator, RunEngineControlException

from bluesky_ptychonn.core.account import FrameAccount
from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.plans.guard import Note, PausedInFlight, PauseGuard, attempt, reason_of, stop_all

logger = logging.getLogger(__name__)

OPEN, CLOSE = "Open", "Close"
SHUTTER_S = 5.0
POINTS_PER_COLLECT = 20
STREAM_S = 0.25
"""How often positions are collected from a stage that streams them."""


class Scan:
    """One request on one set of devices; `run` may be repeated."""

    def __init__(
        self,
        request: ScanRequest,
        detector: Any,
        stage: Any,
        shutter: Any,
        edge: Any,
        monitors: Sequence[Readable | Flyable],
    ) -> None:
        self.request = request
        self.detector, self.stage, self.shutter, self.edge = detector, stage, shutter, edge
        self.flux: list[Any] = [device for device in monitors if isinstance(device, Flyable)]
        self.monitors: list[Any] = [device for device in monitors if not isinstance(device, Flyable)]
        self._declared = False
        self._may_be_open = shutter is not None
        self._closing: Any = None
        self.guard = PauseGuard(self._on_pause if request.fly else None)

    def _on_pause(self) -> None:
        """Called while the RunEngine pauses a fly scan: nothing moves on, no frame is exposed any more."""
        self.stage.stop(success=True)
        if self.shutter is not None:
            self._closing = self.shutter.set(CLOSE)
        time.sleep(self._last_frame_s())
        self.detector.stop(success=True)

    def _last_frame_s(self) -> float:
        """Time for the frame of the last trigger to come in."""
        return min(self.request.exposure_s + 0.1, 0.5)

    def run(self, md: Mapping[str, Any]) -> MsgGenerator[str]:
        """Stage, record one run, and put everything back."""
        self.guard.paused = self._declared = False
        self._may_be_open = self.shutter is not None

        def staged() -> MsgGenerator[str]:
            yield from self.guard.watch()
            yield from bps.stage(self.detector)
            yield from bps.stage(self.stage)
            return (yield from self._recorded(md))

        return (yield from bpp.finalize_wrapper(staged(), self._put_back))

    def _put_back(self) -> MsgGenerator[None]:
        """Shutter closed, detector disarmed, stage at its start."""
        guard, stage = self.guard, self.stage
        yield from attempt("closing the shutter", self._close_shutter)
        yield from stop_all([stage, self.detector])
        for device in (self.detector, stage):
            yield from attempt(f"unstaging {device.name}", lambda device=device: bps.unstage(device))

        def home() -> MsgGenerator[None]:
            yield from bps.abs_set(stage, self.request.center_um, wait=True)

        yield from attempt(f"moving {stage.name} back to {self.request.center_um} um", lambda: guard.insist(home))

    def _close_shutter(self) -> MsgGenerator[None]:
        """Close it; one that does not answer is not asked again, because everything else waits for it."""
        if not self._may_be_open:
            return
        try:
            deadline = time.monotonic() + SHUTTER_S
            while self._closing is not None and not self._closing.done and time.monotonic() < deadline:
                yield from bps.sleep(0.02)
            yield from bps.abs_set(self.shutter, CLOSE, group="shutter")
            yield from bps.wait("shutter", timeout=SHUTTER_S)
        except TimeoutError:
            self._may_be_open = False
            raise
        self._may_be_open = False

    def _recorded(self, md: Mapping[str, Any]) -> MsgGenerator[str]:
        uid = yield from bps.open_run(md=self._metadata(md))

        def measured() -> MsgGenerator[None]:
            for signal in self.monitors:
                yield from bps.monitor(signal, name=f"{signal.name}_monitor")
            yield from self._read_monitors()
            yield from (self._fly(uid) if self.request.fly else self._step(uid))
            yield from self._close_shutter()
            yield from self._read_monitors()
            yield from self._conclude("success")

        def interrupted(error: BaseException) -> MsgGenerator[None]:
            paused = isinstance(error, PausedInFlight)
            control = isinstance(error, RunEngineControlException)
            status = "abort" if paused else error.exit_status if control else "fail"  # type: ignore[attr-defined]
            yield from attempt("closing the shutter", self._close_shutter)
            yield from stop_all([self.stage])
            yield from attempt("the last frame", lambda: bps.sleep(self._last_frame_s()))
            yield from stop_all([self.detector])
            if self._declared:
                for device in (self.stage, self.detector):
                    yield from attempt(f"ending {device.name}", lambda device=device: bps.complete(device, wait=True))
                yield from attempt("recording the frames", lambda: self._collect(self.detector))
                yield from attempt("recording the positions", lambda: self._collect(self.stage))
                yield from attempt("recording the flux", self._collect_flux)
                yield from attempt("reading the monitors", self._read_monitors)
            yield from attempt("recording the frame account", lambda: self._conclude(status))
            yield from bps.close_run(exit_status=status, reason=reason_of(error))

        yield from bpp.contingency_wrapper(measured(), except_plan=interrupted, else_plan=bps.close_run)
        return uid

    def _metadata(self, md: Mapping[str, Any]) -> dict[str, Any]:
        request = self.request.as_metadata()
        block: dict[str, Any] = {}
        for device in (self.detector, self.stage, self.edge):
            if device is not None:
                block |= device.ptycho_block()
        motors = list(self.stage.hints["fields"])
        return {
            "plan_name": "spiral_ptycho_scan",
            "detectors": [self.detector.name],
            "motors": motors,
            "hints": {"dimensions": [(motors, "positions")]},
            **request,
            "ptycho": {**block, **request["ptycho"]},
            **md,
        }

    # measuring

    def _arm(self, uid: str) -> MsgGenerator[None]:
        """Prepare, declare, arm; then open the shutter."""
        guard, detector, edge = self.guard, self.detector, self.edge
        if edge is not None:
            yield from bps.prepare(edge, uid, group="prepare")
        yield from bps.prepare(detector, self.request, group="prepare")
        yield from bps.prepare(self.stage, self.request, group="prepare")
        for device in self.flux:
            yield from bps.prepare(device, self.request, group="prepare")
        yield from guard.wait("prepare")
        yield from bps.declare_stream(detector, name="primary", collect=True)
        if self.request.fly:
            yield from bps.declare_stream(self.stage, name="positions", collect=True)
        for device in self.flux:
            yield from bps.declare_stream(device, name="flux", collect=True)
        self._declared = True
        for device in (*self.flux, detector):
            yield from bps.kickoff(device, group="arm")
        if edge is not None:
            yield from bps.kickoff(edge, group="arm")
        yield from guard.wait("arm")
        if self.shutter is not None:
            yield from bps.abs_set(self.shutter, OPEN, group="shutter")
            yield from guard.wait("shutter", timeout=SHUTTER_S)

    def _fly(self, uid: str) -> MsgGenerator[None]:
        guard = self.guard
        yield from self._arm(uid)
        yield from bps.kickoff(self.stage, group="execute")  # the first trigger comes after this
        yield from guard.wait("execute")
        yield from bps.complete(self.stage, group="fly")
        yield from bps.complete(self.detector, group="fly")
        while getattr(self.stage, "streams", False) and not (yield from guard.wait_some("fly", STREAM_S)):
            yield from self._collect(self.stage)
        yield from guard.wait("fly")
        yield from self._collect(self.detector)
        yield from self._collect(self.stage)
        yield from self._collect_flux()

    def _step(self, uid: str) -> MsgGenerator[None]:
        guard, stage, detector = self.guard, self.stage, self.detector
        note = Note("trigger", {"trigger_index": 0})
        yield from self._arm(uid)
        for index, position_um in enumerate(self.request.positions_um):
            yield from bps.checkpoint()

            def arrive(target: Any = tuple(float(value) for value in position_um)) -> MsgGenerator[None]:
                yield from bps.abs_set(stage, target, wait=True)
                if self.request.settle_s:
                    yield from bps.sleep(self.request.settle_s)

            yield from guard.insist(arrive)
            frame = yield from bps.trigger(detector, group="frame")
            yield from bps.wait("frame")
            while guard.paused and not frame.done:
                yield from bps.sleep(0.01)
            note.values["trigger_index"] = index
            yield from bps.trigger_and_read([stage, note], name="positions")
            if index % POINTS_PER_COLLECT == POINTS_PER_COLLECT - 1:
                yield from bps.collect(detector, name="primary")
        yield from bps.complete(detector, wait=True)
        yield from bps.collect(detector, name="primary")

    # recording

    def _collect(self, device: Any) -> MsgGenerator[None]:
        if device is self.detector:
            yield from bps.collect(device, name="primary")
        elif self.request.fly:
            yield from bps.collect(device, name="positions")

    def _collect_flux(self) -> MsgGenerator[None]:
        for device in self.flux:
            yield from bps.complete(device, wait=True)
            yield from bps.collect(device, name="flux")

    def _read_monitors(self) -> MsgGenerator[None]:
        if self.monitors:
            yield from bps.trigger_and_read(self.monitors, name="monitors")

    def _conclude(self, outcome: str) -> MsgGenerator[None]:
        """Record and show what became of the frames."""
        note = Note("run", {"planned": self.request.points, "outcome": outcome})
        read = yield from bps.trigger_and_read([self.detector.counters, self.stage.counters, note], name="counters")
        figures: dict[str, Any] = {key: reading["value"] for key, reading in (read or {}).items()}
        objects: list[Any] = []
        if self.edge is not None:
            yield from bps.complete(self.edge, wait=True)  # its final image; the counters have told it the end
            yield from bps.trigger(self.edge, wait=True)
            objects.append(self.edge)
            figures |= {key.removeprefix(f"{self.edge.name}_"): item["value"] for key, item in self.edge.read().items()}
        account = account_of(figures, fly=self.request.fly)
        objects.append(Note("frame_account", {"account_state": account.state, "account_text": account.as_text()}))
        yield from bps.create(name="account")
        for readable in objects:
            yield from bps.read(readable)
        yield from bps.save()
        print(account.as_text())
        if account.problems():
            logger.error("the frame account does not close: %s", "; ".join(account.problems()))


def account_of(figures: Mapping[str, Any], *, fly: bool) -> FrameAccount:
    """Frame account of a run, from the figures of its ``counters`` and of the edge; -1 and missing ones are unknown."""

    def known(name: str) -> int | None:
        value = figures.get(name, -1)
        return int(value) if value >= 0 else None

    planned = known("planned")
    triggered = known("pulses" if fly else "triggers_sent")
    lost_in_detector, lost_before_file = known("lost_in_detector"), known("lost_before_file")
    both = (planned, triggered)
    return FrameAccount(
        planned=planned,
        triggered=triggered,
        not_sent=None if None in both else cast(int, planned) - cast(int, triggered),
        received=known("frames_received"),
        lost_in_detector=lost_in_detector,
        lost_in_plugin=known("lost_in_plugin"),
        lost_on_wire=known("frames_lost_wire"),
        stitched=known("frames_stitched"),
        no_beam=known("frames_no_beam"),
        unpaired=known("frames_unpaired"),
        shed=known("frames_shed"),
        rejected=known("frames_rejected"),
        written=known("written"),
        lost_before_file=None
        if None in (lost_in_detector, lost_before_file)
        else cast(int, lost_in_detector) + cast(int, lost_before_file),
    )
