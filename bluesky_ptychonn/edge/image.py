"""The stitched image of one run, and the patches it can be made of anew."""

import numpy as np

from bluesky_ptychonn.core.stitch import Canvas, add_patches, change_patches, final_canvas, stitched_image


class LiveImage:
    """Stitch patches as they come; keep them, so that some can be withdrawn and all be placed better in the end.

    Parameters
    ----------
    canvas : Canvas
    weights : (h, h) array
        Probe intensity under a patch.
    planned_um : (N, 2) float64
        Planned positions by trigger index.
    memory : int or (n,) float32
        For how many patches may be kept, further ones stay where they were put first; or memory to keep them in.
    """

    def __init__(self, canvas: Canvas, weights: np.ndarray, planned_um: np.ndarray, memory: int | np.ndarray) -> None:
        self.canvas = canvas
        self._weights = np.asarray(weights, np.float64)
        self._planned_um = planned_um
        self._total = np.zeros(canvas.shape)
        self._coverage = np.zeros(canvas.shape)
        if isinstance(memory, int):
            memory = np.empty(min(len(planned_um), memory) * weights.size, np.float32)
        room = min(len(planned_um), memory.size // weights.size)
        self._patches = memory[: room * weights.size].reshape(room, *weights.shape)
        self._sequences = np.empty(room, np.int64)
        self._indices = np.empty(room, np.int64)
        self._shown = np.empty(room, bool)
        self._row_of = np.full(len(planned_um), -1)
        self._count = self._touched = 0
        self._loose: tuple[np.ndarray, np.ndarray] | None = None
        self._loose_count = 0
        self._loose_last = -1
        self._loose_hidden: list[int] = []

    @property
    def patches(self) -> int:
        """Patches in the image."""
        return int(np.count_nonzero(self._shown[: self._count])) + self._loose_count

    @property
    def hidden(self) -> np.ndarray:
        """Triggers (n,) of the patches which are not in the image, ascending."""
        kept = self._indices[: self._count][~self._shown[: self._count]]
        return np.sort(np.concatenate([kept, np.array(self._loose_hidden, np.int64)]))

    @property
    def loose_patches(self) -> int:
        """Patches in the image which could not be kept."""
        return self._loose_count

    def touch(self, patches: int = 128) -> bool:
        """Have the system give memory for so many more patches, ahead of their coming; False if there is enough.

        On first use it costs as much time as stitching, or more.
        """
        first = max(self._touched, self._count)
        self._touched = min(first + patches, len(self._patches))
        self._patches[first : self._touched] = 0
        return first < self._touched

    def add(
        self, sequences: np.ndarray, indices: np.ndarray, patches: np.ndarray, shown: np.ndarray | None = None
    ) -> None:
        """Put patches (B, h, h) at the planned positions of their triggers.

        Parameters
        ----------
        sequences : (B,) int
            Order in which the frames were paired, ascending from call to call.
        indices : (B,) int
            Trigger indices.
        shown : (B,) bool, optional
            Which of them go into the image; the others are only kept.
        """
        shown = np.ones(len(patches), bool) if shown is None else shown
        corners_px = self.canvas.corners_px(self._planned_um[indices], len(self._weights))
        placed = slice(None) if shown.all() else shown  # a slice copies nothing
        add_patches(self._total, self._coverage, patches[placed], self._weights, corners_px[placed])
        first, kept = self._count, min(len(patches), len(self._patches) - self._count)
        self._patches[first : first + kept] = patches[:kept]
        self._sequences[first : first + kept] = sequences[:kept]
        self._indices[first : first + kept] = indices[:kept]
        self._shown[first : first + kept] = shown[:kept]
        self._row_of[indices[:kept]] = np.arange(first, first + kept)
        self._count += kept
        if kept < len(patches):
            if self._loose is None:
                self._loose = np.zeros(self.canvas.shape), np.zeros(self.canvas.shape)
            loose = np.flatnonzero(shown[kept:]) + kept
            add_patches(*self._loose, patches[loose], self._weights, corners_px[loose])
            self._loose_count += len(loose)
            self._loose_hidden += indices[kept:][~shown[kept:]].tolist()
            self._loose_last = int(sequences[-1])

    def replace(self, indices: np.ndarray, patches: np.ndarray) -> None:
        """Put better patches (B, h, h) in the place of those of the same triggers; others are passed over."""
        rows = self._row_of[indices]
        kept = (rows >= 0) & (rows < self._count)
        kept[kept] = self._indices[rows[kept]] == indices[kept]  # a row may have been given to another trigger
        rows, patches = rows[kept], patches[kept]
        shown = self._shown[rows]
        corners_px = self.canvas.corners_px(self._planned_um[indices[kept][shown]], len(self._weights))
        change_patches(self._total, (patches - self._patches[rows])[shown], self._weights, corners_px)
        self._patches[rows] = patches

    def show(self, shown: np.ndarray) -> None:
        """Say which triggers (N,) bool are in the image; patches which were not kept stay as they are."""
        now = shown[self._indices[: self._count]]
        if not np.array_equal(now, self._shown[: self._count]):
            self._shown[: self._count] = now
            self._total, self._coverage = self._stitch(self.canvas, self._planned_um)

    def withdraw(self, kept_sequences: int) -> int:
        """Take out every patch whose sequence is not below this; return how many went.

        Patches which were not kept can only go all together.
        """
        before = self._count + self._loose_count + len(self._loose_hidden)
        self._count = int(np.searchsorted(self._sequences[: self._count], kept_sequences))
        if self._loose is not None and self._loose_last >= kept_sequences:
            self._loose, self._loose_count, self._loose_hidden = None, 0, []
        withdrawn = before - self._count - self._loose_count - len(self._loose_hidden)
        if withdrawn:
            self._total, self._coverage = self._stitch(self.canvas, self._planned_um)
        return withdrawn

    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """Return phase (H, W) float32, NaN where nothing was seen, and coverage (H, W) float32, as of now."""
        return stitched_image(self._total, self._coverage), self._coverage.astype(np.float32)

    def final(self, positions_um: np.ndarray) -> tuple[np.ndarray, np.ndarray, Canvas]:
        """Stitch the kept patches anew in trigger order; return phase, coverage and their canvas.

        Parameters
        ----------
        positions_um : (N, 2) float64
            Position of each trigger; what was not kept stays at its planned one.
        """
        used_um = positions_um[self._indices[: self._count]]
        canvas = final_canvas(self.canvas, self._planned_um, used_um, len(self._weights))
        total, coverage = self._stitch(canvas, positions_um)
        return stitched_image(total, coverage), coverage.astype(np.float32), canvas

    def _stitch(self, canvas: Canvas, positions_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
        rows = np.flatnonzero(self._shown[: self._count])
        order = rows[np.argsort(self._indices[rows])]
        corners_px = canvas.corners_px(positions_um[self._indices[order]], len(self._weights))
        for start in range(0, len(order), 64):  # in parts: the kept patches may fill the memory
            part = slice(start, start + 64)
            add_patches(total, coverage, self._patches[order[part]], self._weights, corners_px[part])
        if self._loose is not None:
            y, x = np.rint((np.subtract(self.canvas.origin_um, canvas.origin_um)) / canvas.pixel_size_um).astype(int)
            here = slice(y, y + self.canvas.shape[0]), slice(x, x + self.canvas.shape[1])
            total[here] += self._loose[0]
            coverage[here] += self._loose[1]
        return total, coverage
