"""Read a run from its documents: those of databroker 1, of a RunEngine, or of a file of JSON lines.

Frames come from the detector's file that the documents refer to, which has to be on this machine.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from bluesky_ptychonn.core.recorded_run import Recording
from bluesky_ptychonn.io.frame_files import open_dataset, path_of
from bluesky_ptychonn.io.runs import IMAGE, TABLES, TIME, UNIQUE_ID, detector_of, pair

BLOCKS = "BLUESKY_PTYCHONN_HDF5_BLOCKS"
"""Kind of ``resource`` in which databroker 1 keeps a dataset of frames; see `callbacks.databroker1`."""
Document = tuple[str, Mapping[str, Any]]
"""Name and content."""


@contextlib.contextmanager
def open_documents(documents: Iterable[Document]) -> Iterator[Recording]:
    """Open the ptychography run of some documents; its frames can be read as long as the context lasts.

    Parameters
    ----------
    documents : iterable of (str, mapping)
        Of one run, from its start, not filled: ``db[uid].documents()`` of databroker 1, ``run.documents()`` of Tiled.

    Raises
    ------
    ValueError
        If they are not those of one ptychography run, lack what pairs frames with positions, or their file is not here.
    """
    run = _Gathered(documents)
    detector = detector_of(run.start, set(run.resources))
    with contextlib.ExitStack() as stack:
        rows = {part: run.rows(f"{detector}{part}", stack) for part in (IMAGE, UNIQUE_ID, TIME)}
        unique_id = np.asarray(rows[UNIQUE_ID][:], np.int64).ravel()
        time_s = np.asarray(rows[TIME][:], float).ravel()
        if not len(rows[IMAGE]) == len(unique_id) == len(time_s):
            raise ValueError(
                f"run {run.start['uid']}: its documents tell of {len(rows[IMAGE])} frames, {len(unique_id)} ids and "
                f"{len(time_s)} times; some documents are missing"
            )
        paired = pair(run.start, unique_id, time_s, *(run.columns(name) for name in TABLES))
        yield replace(paired, frames=rows[IMAGE])


def documents_of_file(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the documents of one run from a file of JSON lines, as recorders write it when a catalog is not there.

    Raises
    ------
    ValueError
        If the file is torn or holds no complete run.
    """
    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            documents.append((entry["name"], entry["doc"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a document ({error}); the file is torn or another's"
            ) from error
    names = [name for name, _ in documents]
    if names.count("start") != 1 or names[:1] != ["start"] or names[-1:] != ["stop"]:
        raise ValueError(f"{path} does not hold one whole run, from its start to its stop document")
    return documents


class _Gathered:
    """What the documents of one run say, by stream and by key."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.start: Mapping[str, Any] = {}
        self.resources: dict[str, Mapping[str, Any]] = {}
        self._streams: dict[str, str] = {}
        self._values: dict[str, dict[str, list[Any]]] = {}
        self._ranges: dict[str, set[tuple[int, int]]] = {}
        for name, doc in documents:
            self._take(name, doc)
        if not self.start:
            raise ValueError("there is no start document; give the documents of one run, from its start")

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            if self.start:
                raise ValueError(f"documents of two runs, {self.start['uid']} and {doc['uid']}; give those of one")
            self.start = doc
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc.get("name", "primary")
        elif name in ("event", "event_page"):
            stream = self._values.setdefault(doc["descriptor"], {})
            for key, values in doc["data"].items():
                stream.setdefault(key, []).extend([values] if name == "event" else values)
        elif name == "stream_resource":
            self.resources[doc["data_key"]] = doc
        elif name == "stream_datum":
            self._add_range(doc["stream_resource"], doc["indices"])
        elif name == "resource" and doc["spec"] == BLOCKS:
            parameters = doc["resource_kwargs"]
            uri = f"file://localhost{quote(str(Path(doc['root']) / doc['resource_path']))}"
            self.resources[parameters["data_key"]] = {"uid": doc["uid"], "uri": uri, "parameters": parameters}
        elif name == "datum":
            self._add_range(doc["resource"], doc["datum_kwargs"])
        elif name == "datum_page":
            for first, behind in zip(doc["datum_kwargs"].get("start", ()), doc["datum_kwargs"].get("stop", ())):
                self._add_range(doc["resource"], {"start": first, "stop": behind})

    def _add_range(self, resource: str, rows: Mapping[str, Any]) -> None:
        if "start" in rows and "stop" in rows:  # a datum of another kind of file has neither
            self._ranges.setdefault(resource, set()).add((int(rows["start"]), int(rows["stop"])))

    def columns(self, stream: str) -> dict[str, np.ndarray]:
        """Values of a stream; in the export of Tiled, events come before their descriptors."""
        found: dict[str, list[Any]] = {}
        for descriptor, columns in self._values.items():
            if self._streams.get(descriptor) == stream:
                for key, values in columns.items():
                    found.setdefault(key, []).extend(values)
        return {key: np.asarray(values) for key, values in found.items()}

    def rows(self, key: str, stack: contextlib.ExitStack) -> "_Rows":
        """The rows of a dataset which belong to the run."""
        resource = self.resources[key]
        count = 0
        for first, behind in sorted(self._ranges.get(resource["uid"], ())):
            if first != count:
                raise ValueError(f"run {self.start['uid']}: nothing tells of rows {count} to {first} of {key}")
            count = behind
        try:
            path, dataset = path_of(resource["uri"]), resource["parameters"]["dataset"]
            found = stack.enter_context(open_dataset(path, dataset))
        except OSError as error:
            raise ValueError(
                f"run {self.start['uid']}: {resource['uri']} cannot be read here ({error}); replay where the "
                "detector's files are, or from Tiled"
            ) from error
        if len(found) < count:
            raise ValueError(f"{path} holds {len(found)} rows of {dataset}, its run wrote {count}; it is cut short")
        return _Rows(found, count)


class _Rows:
    """The first rows of a dataset."""

    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset, self._count = dataset, count
        self.shape, self.dtype = (count, *dataset.shape[1:]), dataset.dtype

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._dataset[slice(*rows.indices(self._count))]
