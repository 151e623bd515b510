import threading
import time

import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from fakes import FakeDetector, FakeShutter, FakeStage

from bluesky_ptychonn.plans.run import account_of
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

SCAN = {"width_um": 0.5, "step_um": 0.1, "exposure_s": 1e-3}


@pytest.fixture(scope="module")
def RE():
    return RunEngine(context_managers=[])


class Trial:
    """One scan on fakes and what came of it."""

    def __init__(self, RE, *, camera_fails="", stage_fails="", hold=None, log=None, **arguments):
        self.log, self.docs = [] if log is None else log, []
        self.camera, self.stage = FakeDetector(self.log, camera_fails, hold), FakeStage(self.log, stage_fails)
        self.shutter = FakeShutter("shutter", self.log)
        token = RE.subscribe(lambda name, doc: self.docs.append((name, doc)))
        self.error = ""
        plan = spiral_ptycho_scan(self.camera, self.stage, shutter=self.shutter, **{**SCAN, **arguments})
        try:
            RE(plan)
        except RunEngineInterrupted:
            self.log.append("PAUSED")
            RE.resume()
        except Exception as error:
            self.error = str(error)
        finally:
            RE.unsubscribe(token)

    def named(self, name):
        return [doc for kind, doc in self.docs if kind == name]

    def in_order(self, *actions):
        """Whether these happened, one after the other."""
        rest = iter(self.log)
        return all(action in rest for action in actions)


def test_the_first_trigger_comes_after_arming_and_the_shutter(RE):
    trial = Trial(RE)
    assert trial.error == ""
    assert trial.in_order(
        "camera stage",
        "camera prepare",
        "stage prepare",
        "camera kickoff",
        "shutter Open",
        "stage kickoff",
        "stage complete",
        "camera complete",
        "camera collect",
        "stage collect",
        "shutter Close",
        "camera unstage",
        "stage set",
    )
    assert trial.stage.at == (1.0, 2.0)


@pytest.mark.parametrize(
    ("camera_fails", "stage_fails"),
    [("prepare", ""), ("", "prepare"), ("kickoff", ""), ("", "kickoff"), ("complete", ""), ("", "complete")],
)
def test_whatever_fails_everything_is_put_back(RE, camera_fails, stage_fails):
    trial = Trial(RE, camera_fails=camera_fails, stage_fails=stage_fails)
    assert trial.error == f"{'camera' if camera_fails else 'stage'} cannot {camera_fails or stage_fails}"
    assert trial.log[::-1].index("shutter Close") < [*trial.log[::-1], "shutter Open"].index("shutter Open")
    assert trial.in_order("stage stop", "camera stop", "camera unstage", "stage unstage", "stage set")
    assert trial.stage.at == (1.0, 2.0)
    (stop,) = trial.named("stop")
    assert stop["exit_status"] == "fail"
    assert stop["reason"] == trial.error
    assert stop["num_events"]["counters"] == 1


def test_a_detector_that_cannot_be_staged_opens_no_run(RE):
    trial = Trial(RE, camera_fails="stage")
    assert "camera cannot stage" in trial.error
    assert trial.docs == []
    assert "camera unstage" in trial.log
    assert "shutter Open" not in trial.log


def test_what_is_impossible_moves_nothing(RE):
    trial = Trial(RE, stage_fails="check")
    assert "stage is broken" in trial.error
    assert trial.log == []
    assert trial.docs == []


def test_steps_visit_every_position_once_and_come_home(RE):
    trial = Trial(RE, fly=False)
    assert trial.error == ""
    (start,) = trial.named("start")
    assert trial.log.count("camera trigger") == start["num_points"] == trial.named("stop")[0]["num_events"]["positions"]
    assert len(set(trial.stage.visited)) >= start["num_points"]
    assert trial.stage.at == (1.0, 2.0)
    assert "stage kickoff" not in trial.log


def test_a_pause_in_flight_ends_the_run_and_begins_a_new_one(RE):
    hold, log = threading.Event(), []

    def pause():
        while "camera complete" not in log:
            time.sleep(0.01)
        RE.request_pause()

    threading.Thread(target=pause, daemon=True).start()
    trial = Trial(RE, hold=hold, log=log)
    assert trial.error == ""
    assert trial.in_order("stage kickoff", "stage stop", "shutter Close", "camera stop", "PAUSED", "stage kickoff")
    assert [stop["exit_status"] for stop in trial.named("stop")] == ["abort", "success"]


def test_the_recipe_and_the_users_metadata_are_in_the_start_document(RE):
    trial = Trial(RE, overlap_ratio=0.8, step_um=None, md={"plan_name": "mine", "proposal": 3}, sample_name="gold")
    (start,) = trial.named("start")
    assert (start["plan_name"], start["proposal"], start["sample_name"]) == ("mine", 3, "gold")
    assert start["ptycho"]["step_um"] == pytest.approx(0.1)
    assert start["ptycho"]["dwell_s"] == pytest.approx(1e-3 + 1e-5)
    assert start["ptycho"]["center_um"] == [1.0, 2.0]
    assert start["plan_args"]["overlap_ratio"] == 0.8
    assert start["motors"] == ["stage_y", "stage_x"]


FIGURES = {
    "planned": 10,
    "pulses": 9,
    "lost_in_detector": 1,
    "lost_in_plugin": 0,
    "lost_before_file": 2,
    "written": 6,
    "frames_received": 8,
    "frames_lost_wire": 0,
    "frames_stitched": 7,
    "frames_unpaired": 1,
    "frames_shed": 0,
    "frames_rejected": 0,
    "frames_no_beam": 0,
}


def test_the_account_closes_over_every_loss():
    account = account_of(FIGURES, fly=True)
    assert account.closed, account.as_text()
    assert account.not_sent == 1


@pytest.mark.parametrize("name", ["pulses", "lost_in_detector", "written"])
def test_what_is_unknown_leaves_the_account_open(name):
    assert account_of({**FIGURES, name: -1}, fly=True).state == "open"


def test_a_frame_too_few_is_a_problem():
    assert account_of({**FIGURES, "written": 5}, fly=True).problems()
