"""The analysis of a probe check as a device: a plan sets it to a run, and waits until it is done."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.status import Status

from bluesky_ptychonn.cli.probe_check import FOLDER
from bluesky_ptychonn.cli.probe_check_result import RESULT, read_result
from bluesky_ptychonn.cli.session import Session, put_geometry
from bluesky_ptychonn.config import load_settings, settings_path
from bluesky_ptychonn.simulation.processes import signal_group, signals_held

RECORDED_S = 60.0


class ProbeAnalysis(Device):
    """Runs `bluesky-ptychonn probe-check`, shows what it says, and holds what it found.

    What is written is at once used by the detector of this session, too.

    Parameters
    ----------
    session : Session
        With a catalog.
    name : str
    """

    run_uid = Cpt(Signal, value="")
    believed = Cpt(Signal, value=False)
    beam_center_y_px = Cpt(Signal, value=float("nan"))
    beam_center_x_px = Cpt(Signal, value=float("nan"))
    orientation = Cpt(Signal, value="")
    defocus_um = Cpt(Signal, value=float("nan"))
    astigmatism_um = Cpt(Signal, value=float("nan"))
    astigmatism_angle_rad = Cpt(Signal, value=float("nan"))

    def __init__(self, session: Session, *, name: str) -> None:
        super().__init__(name=name)
        self._session, self._settings_file = session, settings_path()
        self._process: subprocess.Popen[str] | None = None

    @property
    def folder(self) -> Path:
        """Of the last result."""
        beside = self._settings_file.resolve().parent if self._settings_file is not None else Path.cwd()
        return beside / FOLDER / str(self.run_uid.get())[:8]

    def set(self, uid: str, *, write: bool = False) -> Status:
        """Analyse a run; with ``write``, put what is found into settings and model store."""
        status = Status(obj=self)
        self.run_uid.put(uid)
        self.believed.put(False)
        threading.Thread(target=self._analyse, args=(uid, write, status), name="probe_check", daemon=True).start()
        return status

    def accept(self) -> None:
        """Write the last result into settings and model store.

        Raises
        ------
        RuntimeError
            If there is none, or it is not believed.
        """
        if not (self.folder / RESULT).is_file():
            raise RuntimeError("nothing was found yet; run RE(probe_check(detector, stage, analysis=probe_analysis))")
        self._command(str(self.folder), write=True)

    def stop(self, *, success: bool = False) -> None:
        """End the analysis, if one is under way."""
        if self._process is not None and self._process.poll() is None:
            signal_group(self._process.pid, 15)

    def _analyse(self, uid: str, write: bool, status: Status) -> None:
        try:
            self._session.recorder.wait(RECORDED_S)
            self._command(uid, write=write)
        except Exception as error:  # for the plan that waits
            status.set_exception(error)
        else:
            status.set_finished()

    def _command(self, source: str, *, write: bool) -> None:
        arguments = ["probe-check", source, *(["--write"] if write else [])]
        arguments += ["--settings", str(self._settings_file)] if self._settings_file is not None else []
        with signals_held():
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "bluesky_ptychonn.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C in the terminal is for the RunEngine
            )
        last = ""
        with process:
            for line in process.stdout or ():
                last = line.rstrip() or last
                print(line, end="", flush=True)
        code, believed = process.returncode, self._take_result()
        if code != 0 and (write or code != 1 or believed is None):
            raise RuntimeError(f"probe-check ended with {code}: {last}")
        if write:
            put_geometry(self._session.detector, load_settings(self._settings_file))

    def _take_result(self) -> bool | None:
        """Hold what was found; whether it is believed, None if nothing was found."""
        if not (self.folder / RESULT).is_file():
            return None
        result = read_result(self.folder)
        values: dict[str, Any] = {
            "beam_center_y_px": result.found.beam_center_px[0],
            "beam_center_x_px": result.found.beam_center_px[1],
            "orientation": result.found.orientation,
            "defocus_um": result.found.defocus_um,
            "astigmatism_um": result.found.astigmatism_um,
            "astigmatism_angle_rad": result.found.astigmatism_angle_rad,
            "believed": result.believed,
        }
        for name, value in values.items():
            getattr(self, name).put(value)
        return result.believed
