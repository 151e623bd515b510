"""The incident flux per trigger, counted by a multichannel scaler behind records of the EPICS module mca."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO
from ophyd import FormattedComponent as FCpt

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.waiting import WorkStatus, address, in_background, put_checked, wait_until

TRIGGER_INDEX = "trigger_index"
FLUX = "flux"
START_S = 3.0
LAST_CHANNEL_S = 0.5
"""So long after a flight may its last channel come; one that ends with the next pulse never does."""


class FluxScaler(Device):
    """Counts of an ion chamber or diode at each trigger, such as an SIS3820 in MCS mode (SIS38XX.template).

    The stage's trigger pulses go to its channel advance, so that channel k is trigger k; the first pulse must begin
    the first channel (``InitialChannelAdvance``). Counts are of the time from pulse to pulse, unless the input is gated
    with the exposure. A flyer of `spiral_ptycho_scan`: its stream ``flux`` has one row per trigger.

    Parameters
    ----------
    prefix : str
        PV prefix with its trailing colon, such as ``"BL:MCS:"``.
    channel : int
        Input that counts the flux; input 1 is usually the clock.
    """

    erase_start = Cpt(EpicsSignal, "EraseStart", kind="omitted")
    stop_all = Cpt(EpicsSignal, "StopAll", kind="omitted")
    read_all = Cpt(EpicsSignal, "DoReadAll", kind="omitted")
    channel_advance = Cpt(EpicsSignal, "ChannelAdvance", string=True, kind="config")
    channels = Cpt(EpicsSignal, "NuseAll", kind="omitted")
    most_channels = Cpt(EpicsSignalRO, "MaxChannels", kind="omitted")
    current_channel = Cpt(EpicsSignalRO, "CurrentChannel", kind="omitted")
    acquiring = Cpt(EpicsSignalRO, "Acquiring", string=True, kind="omitted")
    counts = FCpt(EpicsSignalRO, "{prefix}mca{channel}", kind="omitted")

    def __init__(self, prefix: str = "", *, name: str, channel: int = 2, **kwargs: Any) -> None:
        self.channel = channel
        super().__init__(prefix, name=name, **kwargs)
        self._triggers = 0
        self._began_s = 0.0
        self._counted = np.empty(0)

    def check(self, request: ScanRequest) -> list[str]:
        """What stands against this request; empty if nothing does. Changes nothing."""
        if not request.fly:
            return [f"{self.name} counts at the triggers of a fly scan, and fly is False; leave it out of monitors"]
        try:
            most = int(self.most_channels.get())
        except TimeoutError as error:
            return [f"{error}; is the scaler's IOC running? Else leave {self.name} out of monitors"]
        if request.points > most:
            return [f"{address(self.most_channels)} is {most}, fewer than the {request.points} points; split the scan"]
        return []

    def prepare(self, request: ScanRequest) -> WorkStatus:
        """One channel for each trigger."""
        self._triggers, self._counted = request.points, np.empty(0)

        def work(status: WorkStatus) -> None:
            self.stop_all.put(1)
            put_checked(self.channel_advance, "External")
            put_checked(self.channels, request.points)

        return in_background(self, "flux scaler", work)

    def kickoff(self) -> WorkStatus:
        """Count from the first trigger on; done when it does."""

        def work(status: WorkStatus) -> None:
            self.erase_start.put(1)
            wait_until(
                lambda: self.acquiring.get(use_monitor=False) == "Acquiring",
                START_S,
                lambda: f"{address(self.erase_start)} does not start: {address(self.acquiring)} is not Acquiring",
            )
            self._began_s = time.time()

        return in_background(self, "flux scaler armed", work)

    def complete(self) -> WorkStatus:
        """After a flight: stop, and get the counts of its triggers."""

        def work(status: WorkStatus) -> None:
            deadline = time.monotonic() + LAST_CHANNEL_S
            while self._channels_counted() < self._triggers and time.monotonic() < deadline:
                time.sleep(0.02)
            self.stop_all.put(1)
            self.read_all.put(1, wait=True)
            self._counted = np.atleast_1d(self.counts.get(use_monitor=False))[: self._channels_counted()]

        return in_background(self, "flux", work)

    def _channels_counted(self) -> int:
        return min(int(self.current_channel.get(use_monitor=False)), self._triggers)

    def describe_collect(self) -> dict[str, Any]:
        """Data keys of the stream ``flux``."""
        source = {"source": f"PV:{address(self.counts)}", "shape": []}
        return {
            FLUX: {**source, "dtype": "number", "dtype_numpy": "<f8", "units": "counts"},
            TRIGGER_INDEX: {**source, "dtype": "integer", "dtype_numpy": "<i8"},
        }

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Counts of all triggers of a flight, one page, once."""
        counts, self._counted = self._counted.astype(float), np.empty(0)
        if len(counts):
            times = [self._began_s] * len(counts)
            data = {FLUX: counts.tolist(), TRIGGER_INDEX: list(range(len(counts)))}
            yield {"time": times, "data": data, "timestamps": {key: times for key in data}}

    def stop(self, *, success: bool = False) -> None:
        """Count no more."""
        self.stop_all.put(1)
