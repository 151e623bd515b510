"""Signals: what is being ended is ended, and a plan cleans up."""

import signal
import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine

from bluesky_ptychonn.cli.interruption import AbortOnSignal, signals_raised
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.simulation.processes import ENDING, signals_held


@pytest.fixture(autouse=True)
def usual_handlers():
    """As in a terminal; a job in the background of a script starts with SIGINT ignored."""
    usual = {number: signal.SIG_DFL for number in ENDING} | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_through_the_context_managers(number):
    with pytest.raises(SystemExit) as left, signals_raised():
        signal.raise_signal(number)
    assert left.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", ENDING)
def test_signals_do_not_interrupt_the_ending(number):
    done = []
    with signals_held(drop=True):
        signal.raise_signal(number)
        done.append(number)
    assert done == [number]


def test_a_held_signal_acts_afterwards():
    done = []

    def interrupted():
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["whole"]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_plan_is_aborted_with_its_cleanup(number, error):
    documents, cleaned = [], []
    RE = RunEngine(context_managers=[AbortOnSignal])
    RE.subscribe(lambda name, doc: documents.append((name, doc)))

    def clean():
        yield from bps.sleep(0.3)  # impatience falls here
        cleaned.append(True)

    @bpp.finalize_decorator(clean)
    @bpp.run_decorator()
    def plan():
        for delay_s in (0.2, 0.4):
            threading.Timer(delay_s, signal.pthread_kill, (threading.main_thread().ident, number)).start()
        yield from bps.sleep(20)

    with pytest.raises(error), signals_raised():
        RE(plan())

    assert cleaned == [True]
    assert RE.state == "idle"
    assert [doc["exit_status"] for name, doc in documents if name == "stop"] == ["abort"]


def test_ctrl_c_while_the_commands_are_imported_is_no_traceback(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("bluesky_ptychonn.cli.main.build_parser", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), OverflowError("too large")])
def test_what_the_machine_refuses_is_told_in_a_line(error, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("bluesky_ptychonn.cli.config.run", fail)
    assert main(["config", "show"]) == 1
    assert capsys.readouterr().err == f"bluesky-ptychonn config: {str(error) or 'it ended with MemoryError'}\n"
