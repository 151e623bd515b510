"""A RunEngine with the devices of one beamline, in a process of its own with its own EPICS environment."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ScanSession:
    """Runs plans in another process and brings the documents home.

    Parameters
    ----------
    env : dict
        EPICS environment.
    data : Path
        Where frames go.
    """

    def __init__(self, env: dict[str, str], data: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(env)
        os.environ.pop("BLUESKY_DEBUG_CALLBACKS", None)
        try:
            self._process = context.Process(target=_serve, args=(theirs, str(data)), daemon=True)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def scan(self, *, then: str = "", when: str = "", what: str = "", **arguments: Any) -> dict[str, Any]:
        """Run `spiral_ptycho_scan`; do ``what`` when ``when`` comes true, and ``then`` once the RunEngine is paused.

        Returns
        -------
        dict
            ``docs``, ``error`` (text or ""), ``seconds`` from ``what`` (or the start) to the end, ``state``.
        """
        return self._call("scan", then, when, what, arguments)

    def state(self) -> dict[str, Any]:
        return self._call("state")

    def walk(self) -> dict[str, Any]:
        """Per device, PVs that do not answer and settings that two stagings have changed."""
        return self._call("walk")

    def put(self, name: str, value: Any) -> None:
        self._call("put", name, value)

    def move(self, y_um: float, x_um: float) -> None:
        self._call("move", y_um, x_um)

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def _call(self, name: str, *arguments: Any) -> Any:
        self._connection.send((name, arguments))
        if not self._connection.poll(120):
            raise TimeoutError(f"{name}{arguments} hangs")
        result = self._connection.recv()
        if isinstance(result, Exception):
            raise result
        return result


class _Server:
    def __init__(self, data: str) -> None:
        from bluesky import RunEngine
        from bluesky.callbacks.best_effort import BestEffortCallback
        from bluesky.suspenders import SuspendFloor
        from ophyd import EpicsMotor, EpicsSignal, EpicsSignalRO

        from bluesky_ptychonn.callbacks.live import LiveImage
        from bluesky_ptychonn.devices.axis_pair import AxisPair
        from bluesky_ptychonn.devices.edge import Edge
        from bluesky_ptychonn.devices.eiger import Eiger
        from bluesky_ptychonn.devices.monitor import FluxScaler
        from bluesky_ptychonn.devices.stage import SpiralStage
        from bluesky_ptychonn.devices.stage_pvs import PositionTable

        self.eiger = Eiger("SIM:EIG:", name="eiger")
        self.eiger.file_directory.put(data)
        self.stage = SpiralStage("SIM:STAGE:", name="stage")
        table = PositionTable("SIM:STAGE:Pcap1:", name="table")
        self.streaming_stage = SpiralStage("SIM:STAGE:", name="stage", table=table)
        axes = (EpicsMotor(f"SIM:STAGE:{axis}", name=f"motor_{axis.lower()}") for axis in "YX")
        self.pair = AxisPair(*axes, name="pair")
        self.shutter = EpicsSignal("SIM:SHUTTER", name="shutter", string=True, write_timeout=5)
        self.edge = Edge("nobody:", name="edge")
        self.edge.arm_timeout_s.put(0.5)
        self.RE = RunEngine(context_managers=[])
        self.docs: list[tuple[str, dict[str, Any]]] = []
        self.RE.subscribe(lambda name, doc: self.docs.append((name, doc)))
        self.RE.subscribe(LiveImage("nobody:"))
        table = BestEffortCallback()
        table.disable_plots()
        self.RE.subscribe(table)
        self.scaler = FluxScaler("SIM:MCS:", name="scaler")
        self.flux = EpicsSignalRO("SIM:FLUX", name="incident_flux")
        self.suspender = SuspendFloor(EpicsSignalRO("SIM:RING:Current", name="ring_current"), 100.0, sleep=0.3)
        self.monitors = [self.shutter, self.flux, self.scaler]

    def scan(self, then: str, when: str, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from bluesky.utils import RunEngineInterrupted

        from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

        self.docs.clear()
        self.during: dict[str, Any] = {}
        if arguments.pop("suspended_by_current", False):
            self.RE.install_suspender(self.suspender)
        devices = {name: getattr(self, name) for name in arguments.pop("devices", ("shutter",))}
        self.eiger.triggering.put(arguments.pop("triggering", "pulse"))
        stage = getattr(self, arguments.pop("stage", "stage"))
        plan = spiral_ptycho_scan(self.eiger, stage, **{"width_um": 1.0, "step_um": 0.1, **devices, **arguments})
        began, error, result = [time.monotonic()], "", ()
        if what:
            threading.Thread(target=self._act, args=(when, what, began), daemon=True).start()
        try:
            try:
                result = self.RE(plan)
            except RunEngineInterrupted:
                time.sleep(0.3)  # a pause does not wait for what it stops
                paused = self.state()
                result = getattr(self.RE, then)()
                return self._told(result, "", began[0]) | {"paused": paused}
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self.RE.clear_suspenders()
        return self._told(result, error, began[0])

    def _told(self, result: Any, error: str, began: float) -> dict[str, Any]:
        seconds = time.monotonic() - began
        told = {"docs": list(self.docs), "uids": result, "error": error, "seconds": seconds}
        return told | {"suspended": self.during}

    def _act(self, when: str, what: str, began: list[float]) -> None:
        conditions: dict[str, Callable[[], bool]] = {
            "flying": lambda: (
                self.stage.profile.execute_state.get() == "Executing"
                and int(self.stage.profile.actual_pulses.get()) > 60
            ),
            "building": lambda: self.stage.profile.build_state.get() == "Busy",
            "stepping": lambda: 5 < int(self.eiger.counters.triggers_sent.get()) < 40,
        }
        while not conditions[when]():
            time.sleep(0.005)
        began[0] = time.monotonic()
        kind, _, argument = what.partition(" ")
        if kind == "kill":
            os.kill(int(argument), 9)
        elif kind == "pause":
            self.RE.request_pause(defer=argument == "deferred")
        elif kind == "lose_beam":
            self.put("SIM:RING:LoseFor", float(argument))
            time.sleep(0.6)
            state = self.state()
            self.during = {key: state[key] for key in ("shutter", "acquire", "moving")}
        elif kind == "abort":
            self.RE.abort()

    def state(self) -> dict[str, Any]:
        eiger = self.eiger
        for device in (eiger, self.stage, self.shutter):
            device.wait_for_connection(timeout=5)
        return {
            "shutter": self.shutter.get(),
            "acquire": int(eiger.cam.acquire.get()),
            "capture": int(eiger.hdf1.capture.get()),
            "moving": self.stage.profile.execute_state.get() != "Done",
            "position_um": self.stage.locate()["readback"],
            "trigger_mode": eiger.cam.trigger_mode.get(),
            "staged": bool(eiger._original_vals),
        }

    def walk(self) -> dict[str, Any]:
        from device_walk import changed_by_staging, silent

        from bluesky_ptychonn.core.request import ScanRequest

        request = ScanRequest(1.0, 1.0, 0.1, 1e-3, 2e-3, 10.0, probe_diameter_um=0.5)
        devices = {"eiger": self.eiger, "stage": self.stage, "streaming stage": self.streaming_stage}
        return {name: (silent(device), changed_by_staging(device, request)) for name, device in devices.items()}

    def put(self, name: str, value: Any) -> None:
        import epics

        if epics.caput(name, value, wait=True, timeout=10) != 1:
            raise TimeoutError(f"{name} does not take {value!r}")

    def move(self, y_um: float, x_um: float) -> None:
        self.stage.set((y_um, x_um)).wait(10)


def _serve(connection: Any, data: str) -> None:
    server = _Server(data)
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            result = getattr(server, name)(*arguments)
        except Exception as error:
            result = RuntimeError(f"{type(error).__name__}: {error}")
        connection.send(result)
