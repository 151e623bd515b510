"""The PVA side of the detector: ``Pva1:Image`` and two counters, as NDPva and QSRV serve them."""

import numpy as np

from bluesky_ptychonn.io.ntndarray import set_frame
from bluesky_ptychonn.simulation.detector_kinds import EIGER2, DetectorKind
from bluesky_ptychonn.simulation.writer import Frame


class ImageServer:
    """Serve frames as NTNDArray; before the first one the channel holds an empty union.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a frame.
    codec : str
        One of `io.codecs.CODECS`; what an NDPluginCodec before the PVA plugin is set to.
    kind : DetectorKind
        Whose channels these are.
    """

    def __init__(self, shape: tuple[int, int], codec: str = "none", kind: DetectorKind = EIGER2) -> None:
        import pvaccess

        self._channel, self._counters = kind.image_channel, kind.counter_channels
        self._pva = pvaccess
        self._codec = codec
        self._server = None
        self._plain, self._field = np.dtype(np.void), ""
        self._image = pvaccess.NtNdArray()
        self._image["dimension"] = [
            {"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in shape[::-1]
        ]

    def serve(self) -> None:
        """Open the server; clients find the channels from now on."""
        server = self._pva.PvaServer()
        for name in self._counters:
            server.addRecord(name, self._pva.NtScalar(self._pva.INT, 0), None)
        server.addRecord(self._channel, self._pva.NtNdArray(), None)
        self._server = server

    def publish(self, frame: Frame) -> None:
        """Publish one frame; ``timeStamp`` is its IOC or detector time, as is ``dataTimeStamp``."""
        if self._server is None:
            return
        image = self._image
        image["uniqueId"] = frame.unique_id
        if self._codec == "none" and frame.data.dtype == self._plain:  # all but the value is there
            image["value"] = {self._field: np.ascontiguousarray(frame.data).ravel()}
        else:
            set_frame(image, frame.data, self._codec)
            self._plain, self._field = frame.data.dtype, image.getSelectedUnionFieldName()
        image["timeStamp"] = _time_stamp(frame.epics_time_s)
        image["dataTimeStamp"] = _time_stamp(frame.time_s)
        self._server.update(self._channel, image)

    def show_counters(self, *values: int) -> None:
        """Publish frames lost in the detector and in the plugin."""
        if self._server is not None:
            for name, value in zip(self._counters, values, strict=True):
                self._server.update(name, self._pva.NtScalar(self._pva.INT, int(value)))


def _time_stamp(time_s: float) -> dict[str, int]:
    seconds, rest = divmod(round(time_s * 1e9), 10**9)
    return {"secondsPastEpoch": seconds, "nanoseconds": rest, "userTag": 0}
