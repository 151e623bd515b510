import pytest
from bluesky import RunEngine
from fakes import Fake, FakeDetector, FakeShutter, FakeStage

from bluesky_ptychonn.plans.probe_check import probe_check


class FakeAnalysis(Fake):
    def set(self, uid, *, write):
        self.asked = uid, write
        return self._done("set")


@pytest.fixture
def check():
    """Runs the plan on fakes; log, documents and uid, or the error."""
    RE = RunEngine(context_managers=[])
    docs = []
    RE.subscribe(lambda name, doc: docs.append((name, doc)))

    def run(log=None, **arguments):
        log = [] if log is None else log
        RE.subscribe(lambda name, doc: log.append(name))
        camera, stage, shutter = FakeDetector(log), FakeStage(log), FakeShutter("shutter", log)
        try:
            (uid,) = RE(probe_check(camera, stage, shutter=shutter, **arguments))
        except Exception as error:
            return log, docs, error
        return log, docs, uid

    return run


def test_a_dense_scan_of_the_probes_size_is_analysed_when_it_is_recorded(check):
    analysis = FakeAnalysis("analysis", [])
    _, docs, uid = check(analysis=analysis, write=True)
    start = docs[0][1]
    assert (start["plan_name"], start["purpose"]) == ("probe_check", "probe_check")
    assert start["plan_pattern_args"]["width_um"] == pytest.approx(2.5 * 0.5)  # the fake's probe has 0.5 um
    assert start["ptycho"]["overlap_ratio"] == pytest.approx(0.85)
    assert docs[-1][0] == "stop"
    assert analysis.asked == (uid, True) == (start["uid"], True)


def test_the_analysis_comes_after_the_stop_document(check):
    """Only then can the run be read."""
    log = []
    _, docs, _ = check(log=log, analysis=FakeAnalysis("analysis", log))
    assert log.index("stop") < log.index("analysis set")
    assert "exit_status" in docs[-1][1]


def test_without_an_analysis_the_command_is_told(check, caplog):
    _, _, uid = check()
    assert f"bluesky-ptychonn probe-check {uid}" in caplog.text


def test_to_write_takes_an_analysis(check):
    log, docs, error = check(write=True)
    assert "write = True needs an analysis" in str(error)
    assert (log, docs) == ([], [])


def test_an_analysis_that_fails_is_told_and_the_run_is_recorded(check):
    _, docs, error = check(analysis=FakeAnalysis("analysis", [], "set"))
    assert isinstance(error, RuntimeError)
    assert str(error) == "analysis cannot set"
    assert (docs[-1][0], docs[-1][1]["exit_status"]) == ("stop", "success")
