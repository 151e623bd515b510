"""An image server, a gatherer and pvapy's consumers, each a process of its own: the edge past one process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from edge_world import PREFIX, World

from bluesky_ptychonn.cli.gather import consumer_command
from bluesky_ptychonn.config import load_settings, write_settings
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage, as_message
from bluesky_ptychonn.simulation.test_sets import load_test_set, scan_of

BIN = Path(sys.executable).parent


class GatherWorld(World):
    """Processes of one test, with the frames of a simulated sample; ends them by their ids.

    Parameters
    ----------
    folder : Path
    engine : str
        Of the consumers.
    frames : int
    fps : float
    """

    def __init__(self, folder: Path, engine: str, frames: int, fps: float) -> None:
        super().__init__()
        self.folder, self.fps = folder, fps
        self.settings_file = folder / "settings.toml"
        probe = zone_plate_probe(Geometry())
        scan = scan_of(load_test_set("letters"), probe, points=frames, photons=1e6)
        self.positions_um = scan.positions_um - scan.positions_um.mean(axis=0)
        np.save(folder / "pool.npy", scan.patterns.astype(np.uint16))
        np.save(folder / "probe.npy", probe)
        write_settings(
            {"edge": {"prefix": PREFIX, "engine": engine}, "probe": {"file": "probe.npy"}}, self.settings_file
        )
        self.settings = load_settings(self.settings_file)
        self._groups: list[subprocess.Popen[bytes]] = []

    def open(self, role: str, *command: str) -> None:
        """Start a program that talks through pipes, and wait for its first line."""
        self._processes[role] = process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._env
        )
        assert process.stdout is not None
        assert process.stdout.readline()

    def start_stream(self) -> None:
        """Start the image server."""
        module = "bluesky_ptychonn.simulation.bare_stream"
        self.open("stream", sys.executable, "-m", module, str(self.folder / "pool.npy"))

    def start_edge(self) -> None:
        """Start the edge in one process."""
        self.open("edge", str(BIN / "bluesky-ptychonn"), "edge", "--settings", str(self.settings_file))

    def start_gatherer(self, consumers: int) -> None:
        """Start the gatherer as a user would."""
        settings = ("--settings", str(self.settings_file))
        self.open("gather", str(BIN / "bluesky-ptychonn"), "gather", *settings, "--consumers", str(consumers))

    def start_consumers(self, consumers: int, *options: str) -> subprocess.Popen[bytes]:
        """Start consumers by the command that the gatherer says."""
        command = consumer_command(self.settings, consumers, self.settings_file)
        with (self.folder / "consumers.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:], *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )
        self._groups.append(process)
        return process

    def close(self) -> None:
        """End everything: consumers by the groups that were started here."""
        for process in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        super().close()

    def log(self) -> str:
        """What the consumers have said."""
        return (self.folder / "consumers.log").read_text(errors="replace")

    def arm(self, uid: str, fps: float = 0) -> None:
        """Tell the gatherer of a run, and wait until all are armed."""
        n, fps = len(self.positions_um), fps or self.fps
        message = RunMessage(
            uid, self.settings.beamline.detector_prefix + "Pva1:Image", n, *self.positions_um.T, 10.0, 0.9, 75.0,
            0.8 / fps, 1 / fps, (128, 128), 128, (64.0, 64.0), token="secret", clock="detector",
        )  # fmt: skip
        values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in as_message(message).items()}
        self.call("client", put="run", values=values)
        self.until(armed_uid=uid)

    def end(self, uid: str, triggered: int) -> dict:
        """Tell the gatherer that the run has ended; return its last word."""
        message = PositionsMessage(uid, "secret", triggered=triggered, lost_in_detector=0, lost_in_plugin=0)
        values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in as_message(message).items()}
        self.call("client", put="positions", values=values)
        return self.until(final_uid=uid)

    def share(self, number: int) -> dict:
        """Last report of a consumer."""
        code = f"""if True:
            import json, numpy
            from bluesky_ptychonn.io.pva import PvaChannel
            got = PvaChannel("{PREFIX}share:{number}", 5.0).get("pid,unique_id,trigger_index,state")
            print(json.dumps({{k: v.tolist() if isinstance(v, numpy.ndarray) else v for k, v in got.items()}}))
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=self._env)
        return json.loads(done.stdout)

    def pid(self, number: int) -> int:
        """Process of a consumer."""
        pid = self.share(number)["pid"]
        assert pid > 1, "the consumer has said nothing yet"  # a signal to 0 goes to all that belongs to this test
        return pid

    def final(self) -> tuple[np.ndarray, dict]:
        """Final image and what travels with it."""
        attributes = self.call("client", image="final", file=str(self.folder / "final.npy"))
        return np.load(self.folder / "final.npy"), attributes

    def run(self, uid: str, frames: int) -> tuple[dict, np.ndarray, dict]:
        """A whole run; return stats, image and what travels with it."""
        self.arm(uid)
        self.call("stream", frames=frames, fps=self.fps)
        stats = self.end(uid, frames)
        return stats, *self.final()


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background inherits that it is ignored
