"""What pvapy's channels need to be safe in a program with threads.

pvapy copies and drops references to Python callbacks in threads of its own, without the lock that guards their counts;
it keeps that lock while it waits a second to destroy a channel; and a connection callback may run inside the call that
starts a monitor and then spoils the lock for everybody. So callbacks are made once, small, and live for ever; channels
which asked something are used again, never destroyed; and connections are looked at.
"""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

WATCH_S = 0.02
SPARE_REFERENCES = 64


def _keep_for_ever(thing: Any) -> None:
    """Hold so many references that some lost counts do no harm."""
    for _ in range(SPARE_REFERENCES):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Relay:
    """A callback for pvapy which can be let go of: it passes updates on until it is cut."""

    __slots__ = ("_target",)

    def __init__(self, target: Callable[[Any], None]) -> None:
        self._target: Callable[[Any], None] | None = target
        _keep_for_ever(self)

    def __call__(self, update: Any) -> None:
        if (target := self._target) is not None:
            target(update)

    def cut(self) -> None:
        """Pass nothing on any more."""
        self._target = None


class _Answers:
    """Answers to requests of one kind; pvapy gives them in the order of the requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = self._answered = 0
        self._waiting: dict[int, tuple[threading.Event, list[Any]]] = {}
        self.on_answer, self.on_error = (
            Relay(lambda value: self._take(value)),
            Relay(lambda text: self._take(str(text))),
        )

    def ask(self, request: Callable[..., None], message: tuple[Any, ...], descriptor: str, timeout_s: float) -> Any:
        """Return the answer: a PvObject, or a text which says what is wrong; None if there is none in time."""
        answered, answer = threading.Event(), []
        with self._lock:
            number = self._asked
            self._waiting[number] = (answered, answer)
            request(*message, self.on_answer, self.on_error, descriptor)
            self._asked += 1
        answered.wait(timeout_s)
        self._waiting.pop(number, None)
        return answer[0] if answer else None

    def _take(self, value: Any) -> None:
        number, self._answered = self._answered, self._answered + 1
        answered, answer = self._waiting.get(number, (None, []))
        if answered is not None:  # else nobody waits any longer
            answer.append(value)
            answered.set()


class Link:
    """A pvapy channel for requests.

    Parameters
    ----------
    name : str
        Of the PVA channel.
    """

    _idle: dict[str, list["Link"]] = {}
    _idle_lock = threading.Lock()

    def __init__(self, name: str) -> None:
        import pvaccess

        self.name = name
        self.channel = pvaccess.Channel(name)
        self._sought = False
        self._gets, self._puts = _Answers(), _Answers()
        _keep_for_ever(self.channel)

    @classmethod
    def take(cls, name: str) -> "Link":
        """Return one that nobody uses and that is connected, or a new one."""
        with cls._idle_lock:
            idle = cls._idle.get(name, [])
            for link in idle:
                if link.channel.isConnected():
                    idle.remove(link)
                    return link
        return cls(name)

    def give_back(self) -> None:
        """Let others use it."""
        with self._idle_lock:
            self._idle.setdefault(self.name, []).append(self)

    @property
    def lost(self) -> bool:
        """Whether it had, or sought, a server and has none now; such a one finds it late, a fresh one at once."""
        connected = bool(self.channel.isConnected())
        lost = self._sought and not connected
        self._sought |= connected
        return lost

    def ask(self, descriptor: str, timeout_s: float, *message: Any) -> Any:
        """Get, or put a message; see `_Answers.ask`."""
        self.channel.setTimeout(timeout_s)
        answers, request = (self._puts, self.channel.asyncPut) if message else (self._gets, self.channel.asyncGet)
        # pvapy's own timeout covers the connection only; a hung server says nothing
        answer = answers.ask(request, message, descriptor, timeout_s + 0.2)
        self._sought = True
        return answer


class Monitor:
    """A pvapy channel for updates, of its own: nothing queued for an earlier one can come.

    A lost channel is given up for a fresh one: pvapy's monitor of a server that ended in order never comes back.

    Parameters
    ----------
    name : str
    callback : callable
        Takes each update, in a thread of PVA.
    request : str
        PVA request.
    on_connection : callable, optional
        Told of connections and losses, within `WATCH_S`.
    """

    def __init__(
        self,
        name: str,
        callback: Callable[[Any], None],
        request: str,
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        self._name, self._callback, self._request = name, callback, request
        self._on_connection = on_connection
        self._lost: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        self._open()
        threading.Thread(target=self._watch, name=f"watch {name}", daemon=True).start()

    def _open(self) -> None:
        import pvaccess

        self._relay = Relay(self._callback)
        self.channel = pvaccess.Channel(self._name)
        self.channel.monitor(self._relay, self._request)

    def _watch(self) -> None:
        was = False
        while not self._closed:
            now = bool(self.channel.isConnected())
            if now != was:
                was = now
                if self._on_connection is not None:
                    self._on_connection(now)
                if not now:
                    self._renew()
            time.sleep(WATCH_S)

    def _renew(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._relay.cut()
            self.channel.stopMonitor()
            self._lost.append(self.channel)  # destroying it would keep other threads waiting
            self._open()

    def close(self) -> None:
        """Pass no more updates on."""
        with self._lock:
            self._closed = True
            self._relay.cut()
            self.channel.stopMonitor()
