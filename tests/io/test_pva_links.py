import sys
import threading

import pytest

from bluesky_ptychonn.io.pva_links import SPARE_REFERENCES, Relay, _Answers


def test_a_relay_survives_lost_references_and_can_be_cut():
    heard = []
    relay = Relay(heard.append)
    assert sys.getrefcount(relay) >= SPARE_REFERENCES
    relay(1)
    relay.cut()
    relay(2)
    assert heard == [1]


def test_a_late_answer_is_nobody_elses():
    """pvapy answers in order; the first request was given up before its answer came."""
    pending = []
    answers = _Answers()

    def request(on_answer, on_error, descriptor):
        pending.append(descriptor)

    assert answers.ask(request, (), "first", 0.01) is None
    result = []
    second = threading.Thread(target=lambda: result.append(answers.ask(request, (), "second", 5.0)))
    second.start()
    while len(pending) < 2:
        pass
    answers.on_answer("to first")
    answers.on_error(ValueError("to second"))
    second.join()
    assert result == ["to second"]


def test_a_request_that_fails_at_once_leaves_the_order_alone():
    answers = _Answers()

    def broken(*_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        answers.ask(broken, (), "", 1.0)
    assert answers.ask(lambda on_answer, *_: on_answer(5), (), "", 1.0) == 5
