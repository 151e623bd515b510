"""The profile as a user has it: IPython in a real terminal, typed into."""

import os
import re
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pexpect")

import pexpect

from bluesky_ptychonn.cli.services import Services

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROMPT = r"In \[\d+\]: "
LONG = (
    "RE(spiral_ptycho_scan(detector, stage, width_um=3, step_um=0.1, exposure_s=5e-4, dwell_s=10e-3, edge=edge, "
    "shutter=shutter))"
)


class Terminal:
    """IPython with the profile."""

    def __init__(self, profile_directory):
        self.child = pexpect.spawn(
            str(BIN / "ipython"),
            [f"--profile-dir={profile_directory}", "--no-confirm-exit", "--simple-prompt", "--colors=NoColor"],
            encoding="utf-8",
            dimensions=(50, 200),
            timeout=90,
        )
        self.child.expect(PROMPT)
        self.start = self.child.before

    def type(self, text, timeout=90):
        """Type a statement; what was printed until the next prompt."""
        self.child.sendline(text)
        self.child.expect(PROMPT, timeout=timeout)
        return self.child.before

    def close(self):
        self.child.sendline("exit")
        self.child.expect(pexpect.EOF, timeout=60)
        self.child.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    before = dict(os.environ)
    os.environ.pop("DISPLAY", None)
    with Services(tmp_path_factory.mktemp("profile")) as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def terminal(services, tmp_path):
    """IPython writes into the profile's folder: it gets a copy of it."""
    startup = tmp_path / "profile/startup"
    startup.mkdir(parents=True)
    for path in (ROOT / "profile_collection/startup").glob("*.py"):
        (startup / path.name).write_text(path.read_text())
    opened = Terminal(tmp_path / "profile")
    yield opened
    opened.close()
    assert opened.child.exitstatus == 0


def scan_of_the_readme():
    """What the README tells to type, on one line."""
    block = re.search(r"```python\n(RE\(.*?)cat\[-1\]", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    return re.sub(r"\s+", " ", block[1]).strip()


def pictures(services):
    return set((services.directory / "pictures").glob("*.png"))


def test_the_scan_of_the_readme_ends_with_an_image(terminal, services):
    assert "RE(spiral_ptycho_scan(" in terminal.start
    before = pictures(services)
    told = terminal.type(scan_of_the_readme())
    assert re.search(r"\('[0-9a-f-]{36}',\)", told), told
    deadline = time.monotonic() + 30
    while not pictures(services) - before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "True" in terminal.type("session.recorder.wait(30)")
    assert "'exit_status': 'success'" in terminal.type("cat[-1].metadata['stop']")


def test_ctrl_c_twice_leaves_a_usable_session_and_safe_hardware(terminal, services):
    terminal.child.sendline(LONG)
    terminal.child.expect("Transient Scan ID", timeout=60)
    time.sleep(4)
    for _ in range(2):
        terminal.child.sendintr()
        time.sleep(0.5)
    terminal.child.expect(PROMPT, timeout=60)
    assert "paused" in terminal.type("RE.state")
    terminal.type("RE.abort()")
    assert "idle" in terminal.type("RE.state")
    assert terminal.type("detector.cam.acquire.get()").split()[-1] == "0"
    assert "Close" in terminal.type("shutter.get()")
    told = terminal.type(scan_of_the_readme())
    assert re.search(r"\('[0-9a-f-]{36}',\)", told), told
