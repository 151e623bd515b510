"""Documents of the frames in a detector's file, as the beamline's detector emits them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
from event_model import compose_stream_resource

FRAMES, ATTRIBUTES = "/entry/data/data", "/entry/instrument/NDAttributes"
STAGE = ("stage_y", "stage_x")


def record_frames(take: Any, start: dict[str, Any], descriptor: Any, path: Path, blocks: int = 1) -> None:
    """Emit descriptor, resources and the rows of a file, in so many blocks."""
    with h5py.File(path) as file:
        (rows, *frame), dtype = file[FRAMES].shape, file[FRAMES].dtype
    external = {"source": "PV:SIM:EIG:", "external": "STREAM:"}
    keys = {
        "detector_image": {"dtype": "array", "shape": frame, "dtype_numpy": dtype.str},
        "detector_unique_id": {"dtype": "integer", "shape": [], "dtype_numpy": "<i4"},
        "detector_time_stamp": {"dtype": "number", "shape": [], "dtype_numpy": "<f8"},
    }
    primary = descriptor(
        name="primary",
        data_keys={key: {**external, **about} for key, about in keys.items()},
        object_keys={"detector": list(keys)},
    )
    take("descriptor", primary.descriptor_doc)
    datasets = (FRAMES, f"{ATTRIBUTES}/NDArrayUniqueId", f"{ATTRIBUTES}/NDArrayTimeStamp")
    edges = [rows * block // blocks for block in range(blocks + 1)]
    for key, dataset in zip(keys, datasets, strict=True):
        stream = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path.as_posix()}",
            data_key=key,
            parameters={"dataset": dataset, "chunk_shape": (1, *keys[key]["shape"])},
            start=start,
        )
        take("stream_resource", stream.stream_resource_doc)
        for first, behind in pairwise(edges):
            indices = {"start": first, "stop": behind}
            take("stream_datum", stream.compose_stream_datum(indices=indices, descriptor=primary.descriptor_doc))
