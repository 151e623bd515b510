"""An engine whose patches say which version made them, for the tests of what changes while the edge runs."""

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard

PROBE = np.full((16, 16), 2 + 0j, np.complex64)
PATTERNS = np.ones((3, 16, 16), np.uint16)


def card(version, network="1", **values):
    files = {"model.onnx": 63 * "0" + network, "golden.npz": 64 * "0"}
    given = {"files": files, "frame_px": 16, "patch_px": 8, "pixel_size_um": None, "energy_kev": None, **values}
    return ModelCard("test", version, **given)


class Fake:
    """Patches that hold the number of the version it was opened for."""

    name, max_batch, guess = "fake", 8, None

    def __init__(self, version, **values):
        self.card = card(version, **values)
        self.frame_px, self.patch_px = self.card.frame_px, self.card.patch_px
        self.power = 0.0

    def set_probe(self, probe):
        self.power = float(np.sum(np.abs(probe) ** 2))

    def infer(self, patterns):
        assert self.power, "the engine has no probe"
        return np.full((len(patterns), self.patch_px, self.patch_px), float(self.card.version), np.float32)
