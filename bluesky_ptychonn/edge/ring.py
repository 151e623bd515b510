"""A bounded ring of frames between the PVA thread and the engine's."""

import threading

import numpy as np


class FrameRing:
    """Frames in preallocated slots, first in, first out; one thread pushes, one takes.

    A full ring refuses the newest frame, and says so: the caller counts it as shed.

    Parameters
    ----------
    size : int
        Slots.
    shape : (int, int)
        Rows and columns of a frame.
    dtype : data type
    """

    def __init__(self, size: int, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.size = size
        self._frames = np.empty((size, *shape), dtype)
        self._tags = np.empty((size, 2), np.int64)
        self._arrivals = np.empty(size)
        self._pushed = 0
        self._taken = 0
        self._wanted = 1
        self._filled = threading.Event()

    def __len__(self) -> int:
        return self._pushed - self._taken

    @property
    def dtype(self) -> np.dtype:
        """Type of the frames."""
        return self._frames.dtype

    def push(self, frame: np.ndarray, sequence: int, index: int, arrival_s: float) -> bool:
        """Copy a frame in; False if there is no room."""
        used = self._pushed - self._taken
        if used >= self.size:
            return False
        slot = self._pushed % self.size
        self._frames[slot] = frame
        self._tags[slot] = sequence, index
        self._arrivals[slot] = arrival_s
        self._pushed += 1  # after the slot is filled: the other thread may take it from now on
        if used + 1 >= self._wanted:
            self._filled.set()
        return True

    def peek(self, count: int, timeout_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Wait until there are ``count`` frames, at most so long, and look at the oldest of them.

        Returns
        -------
        frames : (B, H, W)
            Views, valid until `release`; 0 <= B <= count.
        sequences, indices : (B,) int64
        arrivals_s : (B,) float64
        """
        self._wanted = count
        self._filled.clear()
        if len(self) < count:
            self._filled.wait(timeout_s)
        start = self._taken % self.size
        slots = slice(start, start + min(len(self), count, self.size - start))
        return self._frames[slots], self._tags[slots, 0], self._tags[slots, 1], self._arrivals[slots]

    def release(self, count: int) -> None:
        """Give the oldest ``count`` slots back."""
        self._taken += count
