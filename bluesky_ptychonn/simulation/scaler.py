"""A multichannel scaler that counts the incident flux per trigger, as an SIS3820 does, and the ring behind it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_ptychonn.simulation.detector_state import Settings
from bluesky_ptychonn.simulation.names import CURRENT, FLUX, LOSE_BEAM, SCALER

FULL_MA = 200.0
MOST_CHANNELS = 100_000
COUNTS_PER_PHOTON = 0.01
"""Of an ion chamber in front of the sample."""


class Scaler:
    """Counts of one input, a channel for each pulse; external channel advance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rng = np.random.default_rng()
        self._counts: list[int] = []
        self._most = 0
        self.acquiring = False
        self.channels = MOST_CHANNELS
        """How many it will count."""

    def begin(self) -> None:
        """Forget everything and count."""
        with self._lock:
            self._counts, self._most, self.acquiring = [], self.channels, True

    def stop(self) -> None:
        """Count no more."""
        self.acquiring = False

    def advance(self, photons: float) -> None:
        """A pulse: take what came through the chamber."""
        with self._lock:
            if self.acquiring:
                self._counts.append(int(self._rng.poisson(COUNTS_PER_PHOTON * photons)))
                self.acquiring = len(self._counts) < self._most

    def counts(self) -> np.ndarray:
        """Counts (n,) int32 of the channels so far."""
        with self._lock:
            return np.array(self._counts, np.int32)


class BeamRecords:
    """Ring current, incident flux, and the scaler's records, as far as clients need them.

    Parameters
    ----------
    settings : Settings
        ``beam`` is the part of the full beam that there is.
    scaler : Scaler
    """

    def __init__(self, settings: Settings, scaler: Scaler) -> None:
        from softioc import builder

        self._settings, self._scaler = settings, scaler
        self._back_s = 0.0
        self._current = builder.aOut(
            CURRENT, initial_value=FULL_MA, EGU="mA", PREC=2, DRVL=0, DRVH=FULL_MA, on_update=self._set_current
        )
        self._lose = builder.aOut(
            LOSE_BEAM, initial_value=0, EGU="s", PREC=2, DRVL=0, on_update=self._lose_beam, always_update=True
        )
        self._flux = builder.aIn(FLUX, initial_value=self._flux_now(), EGU="1/s", PREC=0)
        commands: dict[str, Callable[[], Any]] = {"EraseStart": scaler.begin, "StopAll": scaler.stop}
        for name, act in commands.items():
            on_update = lambda value, act=act: act() if value else None  # noqa: E731
            builder.boolOut(SCALER + name, "Done", name, on_update=on_update, always_update=True)
        builder.boolOut(SCALER + "DoReadAll", "Done", "Read", on_update=lambda value: self.show(), always_update=True)
        builder.boolOut(SCALER + "ChannelAdvance", "Internal", "External", initial_value=0)
        builder.longOut(
            SCALER + "NuseAll", initial_value=MOST_CHANNELS, on_update=lambda value: setattr(scaler, "channels", value)
        )
        builder.longIn(SCALER + "MaxChannels", initial_value=MOST_CHANNELS)
        self._acquiring = builder.boolIn(SCALER + "Acquiring", "Done", "Acquiring", initial_value=0)
        self._channel = builder.longIn(SCALER + "CurrentChannel", initial_value=0)
        self._counts = builder.WaveformIn(SCALER + "mca2", length=MOST_CHANNELS, datatype=np.int32)

    def _set_current(self, value: float) -> None:
        self._settings.beam = value / FULL_MA

    def _lose_beam(self, value: float) -> None:
        if value > 0:
            self._back_s = time.monotonic() + value
            self._settings.beam = 0.0
            self._current.set(0.0)

    def _flux_now(self) -> float:
        return 1e3 * self._settings.photons * self._settings.beam  # of exposures of a millisecond

    def show(self) -> None:
        """Show what the scaler counts, the flux, and the current, which comes back when its time is over."""
        if self._back_s and time.monotonic() > self._back_s:
            self._back_s, self._settings.beam = 0.0, 1.0
            self._current.set(FULL_MA)
        if self._flux.get() != self._flux_now():
            self._flux.set(self._flux_now())
        counts = self._scaler.counts()
        if self._channel.get() != len(counts) or self._acquiring.get() != self._scaler.acquiring:
            self._counts.set(counts)
            self._channel.set(len(counts))
            self._acquiring.set(self._scaler.acquiring)
