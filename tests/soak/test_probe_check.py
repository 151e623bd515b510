"""A beamline is set up: `probe_check` finds what the settings do not know, and the next live image uses it."""

import os
import re
import time

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("softioc")

import tomlkit
from scipy import ndimage

from bluesky_ptychonn.cli.center_output import change_settings
from bluesky_ptychonn.cli.child import Child
from bluesky_ptychonn.cli.probe_check_device import ProbeAnalysis
from bluesky_ptychonn.cli.services import Services
from bluesky_ptychonn.cli.session import open_session
from bluesky_ptychonn.core.frames import FrameGeometry
from bluesky_ptychonn.core.metrics import compare_phase, covered_region
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.engines.registry import STARTER, open_engine
from bluesky_ptychonn.io.model_store import live_version, open_model, publish, read_card
from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.runs import read_run
from bluesky_ptychonn.plans.probe_check import probe_check
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]
TOLD_DEFOCUS_UM = 170.0
DEFOCUS_UM, ASTIGMATISM_UM, ANGLE_RAD = 1.3 * TOLD_DEFOCUS_UM, 22.0, 0.9
OFFSET_PX = (8, -9)
"""12 px."""
ORIENTATION = "rot90"
COMMENT = "# of the beamline's staff"
SCAN = {"width_um": 2.0, "step_um": 0.1, "exposure_s": 5e-4, "dwell_s": 4e-3}


class Beamline:
    """The simulated beamline with settings that know energy, distance and pixel, and little of the rest."""

    def __init__(self, services):
        self.services, self.store = services, services.directory / "models"
        card = open_model(STARTER).card
        publish(self.store, card, {name: (STARTER / name).read_bytes() for name in card.files})
        self.true_center_px = services.settings.geometry.beam_center_px
        told = [place - offset for place, offset in zip(self.true_center_px, OFFSET_PX)]
        change_settings(
            services.settings_file,
            {"geometry": {"beam_center_px": told, "orientation": "identity"}, "edge": {"model": "models"}},
        )
        document = tomlkit.parse(f"{COMMENT}\n{services.settings_file.read_text()}")
        del document["geometry"]["bad_pixels_file"]
        services.settings_file.write_text(tomlkit.dumps(document))
        (services.directory / "bad_pixels.npy").rename(services.directory / "true_bad_pixels.npy")
        services.edge = Child("edge", ["edge", "--settings", str(services.settings_file)], services.directory)
        services.start_edge()
        self.session = open_session(services.settings, progress=False, need_catalog=True, catalog_timeout_s=60)

    def channel(self, name):
        return PvaChannel(f"{self.services.settings.edge.prefix}{name}")

    def stats(self):
        return self.channel("stats").get()

    def scan(self):
        """SSIM of the live image of a scan with the truth, and of one with all that the truth knows, offline."""
        session = self.session
        session.RE(
            spiral_ptycho_scan(session.detector, session.stage, shutter=session.shutter, edge=session.edge, **SCAN)
        )
        assert session.recorder.wait(60)
        image, where = read_image(self.channel("final").get())
        coverage = read_image(self.channel("coverage").get())[0]
        canvas = Canvas(image.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])
        truth = self.truth_on(canvas)
        ideal = self.ideal_image(read_run(session.cat[-1]), canvas)
        return [compare_phase(given, truth, region=covered_region(coverage)).ssim for given in (image, ideal)]

    def truth_on(self, canvas):
        with np.load(self.services.directory / "truth.npz") as file:
            truth, truth_px_um, truth_um = np.angle(file["object"]), float(file["pixel_size_um"]), file["origin_um"]
        places_um = np.indices(canvas.shape) * canvas.pixel_size_um
        at = [(part + first - start) / truth_px_um for part, first, start in zip(places_um, canvas.origin_um, truth_um)]
        return ndimage.map_coordinates(truth, at, order=1)

    def ideal_image(self, recorded, canvas):
        shape, folder = recorded.frames.shape[1:], self.services.directory
        mask = np.load(folder / "true_bad_pixels.npy")
        patterns = FrameGeometry(shape, 128, self.true_center_px, mask, ORIENTATION).patterns(recorded.frames)
        probe, engine = np.load(folder / "probe.npy"), open_engine("openvino", STARTER)
        return stitch_scan(engine, patterns, recorded.positions_um, probe, canvas.pixel_size_um, canvas)[0]

    def wait_for(self, version):
        end_s = time.monotonic() + 30
        while str(self.stats()["model_version"]) != version:
            assert time.monotonic() < end_s, self.stats()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def beamline(tmp_path_factory):
    before = dict(os.environ)
    with Services(
        tmp_path_factory.mktemp("probe_check"),
        edge=False,
        told_defocus_um=TOLD_DEFOCUS_UM,
        sample="etched",
        defocus_um=DEFOCUS_UM,
        astigmatism_um=ASTIGMATISM_UM,
        astigmatism_angle_rad=ANGLE_RAD,
        beam_offset_px=OFFSET_PX,
        orientation=ORIENTATION,
        seed=4,
    ) as services:
        found = Beamline(services)
        yield found
        found.session.close()
    os.environ.clear()
    os.environ.update(before)


def test_what_the_settings_do_not_know_is_found_and_the_next_live_image_uses_it(beamline, capsys):
    """About 5 minutes on two cores."""
    session, services = beamline.session, beamline.services
    ssim_before, _ = beamline.scan()
    masked_before = beamline.stats()["masked_fraction"]
    analysis = ProbeAnalysis(session, name="probe_analysis")
    devices = {"shutter": session.shutter, "edge": session.edge, "analysis": analysis}
    (uid,) = session.RE(
        probe_check(session.detector, session.stage, exposure_s=5e-4, dwell_s=4e-3, write=True, **devices)
    )
    told = capsys.readouterr().out
    assert "reconstruction: trusted" in told

    settings = services.settings
    geometry, probe = settings.geometry, settings.probe
    assert np.hypot(*np.subtract(geometry.beam_center_px, beamline.true_center_px)) < 0.5
    assert geometry.orientation == ORIENTATION
    assert probe.defocus_um == pytest.approx(DEFOCUS_UM, rel=0.01)
    assert probe.astigmatism_um == pytest.approx(ASTIGMATISM_UM, abs=2)
    assert probe.astigmatism_angle_rad == pytest.approx(ANGLE_RAD, abs=0.1)
    found, true = (np.load(services.directory / name) for name in ("bad_pixels.npy", "true_bad_pixels.npy"))
    y, x = np.indices(true.shape)
    cone = np.hypot(y - beamline.true_center_px[0], x - beamline.true_center_px[1]) < 30
    np.testing.assert_array_equal(found[cone], true[cone])  # where there is light
    assert not np.any(found & ~true)
    assert found[:, 104:108].all()  # the gap

    assert COMMENT in services.settings_file.read_text()
    folder = services.directory / "probe_checks" / uid[:8]
    assert (folder / "probe_check.png").stat().st_size > 50_000
    assert live_version(beamline.store) == "000002"
    card = read_card(beamline.store / "versions/000002")
    assert (card.parent, card.training["probe_check"]) == ("000001", uid[:8])
    assert card.probe_sha256
    assert re.search(r"version 000002 is live, with this probe; the mean gain", told)

    beamline.wait_for("000002")
    ssim_after, ssim_ideal = beamline.scan()
    start = session.cat[-1].metadata["start"]["ptycho"]
    assert (start["orientation"], start["model_version"]) == (ORIENTATION, "000002")
    assert start["beam_center_px"] == list(geometry.beam_center_px)
    assert beamline.stats()["masked_fraction"] > masked_before
    print(f"SSIM with the truth: {ssim_before:.3f} before, {ssim_after:.3f} after, {ssim_ideal:.3f} knowing all")
    assert ssim_before < 0.3
    assert ssim_after > 0.7
    assert ssim_after > ssim_ideal - 0.02
