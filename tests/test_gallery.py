"""Each script of the gallery, as a user runs it: in an empty folder, by its name; and what it leaves there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

GALLERY = Path(__file__).parents[1] / "gallery"
SCRIPTS = sorted(path.name for path in GALLERY.glob("*.py"))
LONGEST = 60


def planned(told, folder):
    points = [int(count) for count in re.findall(r": (\d+) points", told)]
    assert points == sorted(points)
    assert len(points) == 3


def looked_at(told, folder):
    assert "from the catalog: The account is closed." in told
    assert re.search(r"run \w{8}, letters: (\d+) positions, \1 frames recorded", told)


def reconstructed(told, folder):
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    verdicts = {
        name: read_reconstruction(folder / f"{name}_reconstruction.cxi").report.verdict for name in ("dense", "sparse")
    }
    assert verdicts == {"dense": "trusted", "sparse": "not trusted"}


def trained(told, folder):
    from bluesky_ptychonn.io.model_store import open_model

    assert open_model(folder / "model").card.name == "letters"
    found = dict(re.findall(r"^(starter|tuned): SSIM (\S+)", told, re.MULTILINE))
    assert float(found["tuned"]) > float(found["starter"])


def compared(told, folder):
    found = {name: float(ssim) for name, ssim in re.findall(r"^(\w+) +SSIM (\S+),", told, re.MULTILINE)}
    assert found["lift"] < 0.5 < found["starter"] < found["large"]


def published(told, folder):
    from bluesky_ptychonn.io.model_store import current_version, refused, versions

    store = folder / "models"
    assert list(versions(store)) == ["000001", "000002"]
    assert len(list(refused(store))) == 1
    assert current_version(store) == "000001"


CASES = {
    "01_plan_a_scan.py": (planned, ["plan.png"]),
    "02_look_at_a_run.py": (looked_at, ["run.png"]),
    "03_reconstruct.py": (reconstructed, ["dense.png", "sparse.png"]),
    "04_train.py": (trained, ["trained.png", "tuned/curves.png"]),
    "05_compare.py": (compared, ["compared.png"]),
    "06_publish.py": (published, ["published.png"]),
}
QUICK = ("01_plan_a_scan.py",)


def test_every_script_is_here_is_short_and_teaches():
    assert list(CASES) == SCRIPTS
    for name in SCRIPTS:
        text = (GALLERY / name).read_text()
        assert len(text.splitlines()) <= LONGEST, name
        assert len(ast.get_docstring(ast.parse(text)) or "") > 300, name


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in CASES]
)
def test_a_script(name, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, str(GALLERY / name)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    check, pictures = CASES[name]
    check(done.stdout, tmp_path)
    for picture in pictures:
        assert matplotlib.image.imread(tmp_path / picture)[..., :3].std() > 0.05  # something is drawn
