"""The edge as a process: channels on one interface, signals, and the service until it is told to stop."""

import os
import signal
import threading
from collections.abc import Callable

import numpy as np

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge.service import KEPT_BYTES, EdgeService


def serve(
    prefix: str,
    engine: Engine,
    probe: np.ndarray,
    bad_pixels: np.ndarray | None = None,
    *,
    interface: str = "",
    kept_bytes: int = KEPT_BYTES,
    newest_wins: bool = False,
    engine_core: int | None = None,
    prepare: Callable[[EdgeService], None] = lambda service: None,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve the edge's channels until ``stop`` is set, or Ctrl-C or SIGTERM comes (in the main thread).

    Parameters
    ----------
    prefix, engine, probe, bad_pixels, kept_bytes, newest_wins, engine_core
        As for `EdgeService`.
    interface : str
        Address of the one network interface to bind; "" is what ``EPICS_PVAS_INTF_ADDR_LIST`` says, or else loopback.
    prepare : callable
        Is given the service before it serves, to let it `watch` files.
    stop : threading.Event, optional
    on_ready : callable, optional
        Called when the channels are there.
    """
    os.environ["EPICS_PVAS_INTF_ADDR_LIST"] = interface or os.environ.get("EPICS_PVAS_INTF_ADDR_LIST") or "127.0.0.1"
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    ways = {"kept_bytes": kept_bytes, "newest_wins": newest_wins, "engine_core": engine_core}
    service = EdgeService(prefix, engine, probe, bad_pixels, **ways)
    prepare(service)
    if on_ready is not None:
        on_ready()
    service.serve(stop)
