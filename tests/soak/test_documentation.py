"""The documentation as its readers meet it: built without a warning, its tutorials typed as they are printed."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("myst_parser")
pytest.importorskip("torch")

from blocks import DOCS, ROOT, Terminal, check_output, leave, read, run_python

from bluesky_ptychonn.cli.services import Services

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_the_site_builds_without_a_warning(tmp_path):
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path / "html")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html/reference/commands/reconstruct.html").stat().st_size > 10_000


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which somebody has opened `make shell`."""
    folder, before = tmp_path_factory.mktemp("home"), dict(os.environ)
    os.environ.pop("DISPLAY", None)
    with Services(folder / ".beamline"):
        yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def names(home):
    """What the profile gives."""
    names: dict = {"__name__": "__main__"}
    for file in sorted((ROOT / "profile_collection/startup").glob("*.py")):
        exec(compile(file.read_text(), str(file), "exec"), names)
    yield names
    names["session"].close()


@pytest.fixture
def terminal(home):
    opened = Terminal(home)
    yield opened
    opened.close()


def test_the_tutorial_for_users(names, home, monkeypatch):
    monkeypatch.chdir(home)
    page = read(DOCS / "tutorials/user.md", bash=only("make shell"), python=run_python, text=check_output)
    page.namespace.update(names)
    for example in page.examples():
        example.evaluate()


def test_the_scan_of_the_readme(names, home, monkeypatch):
    monkeypatch.chdir(home)
    page = read(ROOT / "README.md", python=run_python)
    page.namespace.update(names)
    for example in page.examples():
        example.evaluate()
    assert "The account is closed." in page.namespace["told"]


def test_the_tutorial_for_analysts(names, home, terminal, monkeypatch):
    monkeypatch.chdir(home)
    scan = names["spiral_ptycho_scan"](
        names["detector"],
        names["stage"],
        width_um=1.2,
        overlap_ratio=0.85,
        exposure_s=5e-4,
        dwell_s=2e-3,
        edge=names["edge"],
        shutter=names["shutter"],
    )
    names["RE"](scan)
    assert names["session"].recorder.wait(60)
    page = read(DOCS / "tutorials/analyst.md", bash=terminal.type, python=run_python)
    for example in page.examples():
        example.evaluate()


def test_the_how_to_of_probe_check(names, home, monkeypatch):
    monkeypatch.chdir(home)
    page = read(DOCS / "howto/probe_check.md", python=run_python, bash=leave, toml=leave)
    page.namespace.update(names)
    for example in page.examples():
        example.evaluate()


def test_the_tutorial_for_staff(tmp_path):
    """A beamline of its own, in a bash of its own."""
    (tmp_path / "profile_collection").symlink_to(ROOT / "profile_collection")
    terminal = Terminal(tmp_path)
    try:
        for example in read(DOCS / "tutorials/staff.md", bash=terminal.type, text=check_output).examples():
            example.evaluate()
    finally:
        terminal.run("kill %1; bluesky-ptychonn beamline stop")
        terminal.close()


def only(command):
    """A block that the fixtures stand for."""

    def check(example):
        assert str(example.parsed).strip() == command

    return check
