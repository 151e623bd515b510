"""The profile in a bluesky-queueserver: a real RE manager with a real Redis lists, runs and aborts our plan."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("bluesky_queueserver", reason="bluesky-queueserver is not installed (extra dev)")
if shutil.which("redis-server") is None:
    pytest.skip("redis-server is not installed; apt-get install redis-server", allow_module_level=True)

from bluesky_ptychonn.cli.services import Services
from bluesky_ptychonn.config import load_settings

pytestmark = pytest.mark.system
STARTUP = Path(__file__).parents[2] / "profile_collection/startup"
BIN = Path(sys.executable).parent
SCAN = {"width_um": 1.0, "step_um": 0.15, "exposure_s": 5e-4, "dwell_s": 2e-3, "edge": "edge", "shutter": "shutter"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Manager:
    """A Redis and a RE manager of its own."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.redis, control, info = free_port(), free_port(), free_port()
        self.control = f"tcp://127.0.0.1:{control}"
        self._start("redis-server", "--port", self.redis, "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        self._start(
            BIN / "start-re-manager",
            *("--startup-dir", STARTUP, "--redis-addr", f"127.0.0.1:{self.redis}"),
            *("--zmq-control-addr", self.control, "--zmq-info-addr", f"tcp://127.0.0.1:{info}"),
            *("--existing-plans-devices", folder / "existing.yaml", "--update-existing-plans-devices", "ALWAYS"),
            *("--user-group-permissions", self._permissions()),
        )

    def _start(self, *command):
        with open(self.folder / f"{Path(command[0]).name}.log", "ab") as log:
            self.processes.append(
                subprocess.Popen([*map(str, command)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def _permissions(self):
        path = self.folder / "permissions.yaml"
        everything = {"allowed_plans": [":.*"], "allowed_devices": [":?.*:depth=5"], "forbidden_plans": [None]}
        path.write_text(json.dumps({"user_groups": {"root": everything, "primary": everything}}))
        return path

    def ask(self, method, **parameters):
        from bluesky_queueserver import ZMQCommSendThreads

        client = ZMQCommSendThreads(zmq_server_address=self.control)
        try:
            return client.send_message(method=method, params=parameters)
        finally:
            client.close()

    def wait_until(self, state, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        status = {}
        while time.monotonic() < deadline:
            try:
                status = self.ask("status")
            except Exception as error:
                status = {"manager_state": str(error)}
            if state(status):
                return status
            time.sleep(0.2)
        raise AssertionError(f"{status}\n{self.log()}")

    def log(self):
        return (self.folder / "start-re-manager.log").read_text(errors="replace")[-5000:]

    def add(self, **plan):
        item = {"name": "spiral_ptycho_scan", "args": ["detector", "stage"], "item_type": "plan", **plan}
        answer = self.ask("queue_item_add", item=item, user="user", user_group="primary")
        assert answer["success"], answer["msg"]

    def run_queue(self):
        answer = self.ask("queue_start")
        assert answer["success"], answer["msg"]

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queueserver")
    before = dict(os.environ)
    with Services(folder / "state") as services:
        running = Manager(folder)
        running.settings = load_settings(services.settings_file)
        try:
            running.wait_until(lambda status: status.get("manager_state") == "idle")
            answer = running.ask("environment_open")
            assert answer["success"], answer["msg"]
            running.wait_until(lambda status: status.get("worker_environment_exists"))
            yield running
        finally:
            running.close()
            os.environ.clear()
            os.environ.update(before)


def idle(status):
    return status.get("manager_state") == "idle"


def test_the_plan_is_listed_with_its_types(manager):
    plans = manager.ask("plans_allowed", user_group="primary")["plans_allowed"]
    arguments = {one["name"]: one for one in plans["spiral_ptycho_scan"]["parameters"]}
    assert arguments["width_um"]["annotation"]["type"] == "float"
    assert "default" not in arguments["width_um"]
    assert arguments["detector"]["annotation"]["type"] == "__FLYABLE__"
    assert "Extent of the probe centres" in arguments["width_um"]["description"]
    devices = manager.ask("devices_allowed", user_group="primary")["devices_allowed"]
    assert {"detector", "stage", "shutter", "edge", "probe_analysis"} <= set(devices)
    check = {one["name"]: one for one in plans["probe_check"]["parameters"]}
    assert check["analysis"]["annotation"]["type"].startswith("__MOVABLE__")
    assert check["exposure_s"]["default"] == "0.01"


def test_a_queued_scan_is_run_and_recorded(manager):
    manager.add(kwargs=SCAN)
    manager.run_queue()
    manager.wait_until(lambda status: idle(status) and status["items_in_history"] == 1)
    (item,) = manager.ask("history_get")["items"]
    assert item["result"]["exit_status"] == "completed", item["result"]
    (uid,) = item["result"]["run_uids"]
    from bluesky_ptychonn.cli.catalog import open_catalog

    run = open_catalog(manager.settings, timeout_s=20)[uid]
    deadline = time.monotonic() + 30
    while "stop" not in run.metadata and time.monotonic() < deadline:  # written in a thread of its own
        time.sleep(0.2)
        run = run.refresh()
    assert run.metadata["stop"]["exit_status"] == "success"
    assert run.metadata["start"]["plan_name"] == "spiral_ptycho_scan"


def test_an_aborted_scan_leaves_the_beamline_safe_and_the_queue_usable(manager):
    from epics import caget

    manager.add(kwargs={**SCAN, "width_um": 3.0, "dwell_s": 20e-3})
    manager.run_queue()
    manager.wait_until(lambda status: status.get("re_state") == "running" and status.get("running_item_uid"))
    time.sleep(3)
    assert manager.ask("re_pause", option="immediate")["success"]
    manager.wait_until(lambda status: status.get("manager_state") == "paused")
    assert manager.ask("re_abort")["success"]
    manager.wait_until(idle)
    assert manager.ask("history_get")["items"][-1]["result"]["exit_status"] == "aborted"
    prefix = manager.settings.beamline.detector_prefix
    assert caget(f"{prefix}cam1:Acquire_RBV", as_string=False) == 0
    manager.ask("queue_clear")
    manager.add(kwargs=SCAN)
    manager.run_queue()
    manager.wait_until(lambda status: idle(status) and status["items_in_queue"] == 0)
    assert manager.ask("history_get")["items"][-1]["result"]["exit_status"] == "completed"


def test_an_impossible_scan_is_refused_with_the_plans_own_words(manager):
    manager.add(kwargs={**SCAN, "overlap_ratio": 0.8})
    manager.run_queue()
    manager.wait_until(lambda status: idle(status) and status["items_in_queue"] == 1)
    result = manager.ask("history_get")["items"][-1]["result"]
    assert result["exit_status"] == "failed"
    assert "overlap_ratio" in result["msg"]
