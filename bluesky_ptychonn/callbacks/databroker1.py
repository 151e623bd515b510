"""Documents that databroker 1 keeps: it knows nothing of ``stream_resource`` and ``stream_datum``, and drops them.

Each block of frames becomes what databroker 1 has for files: a ``resource`` for each dataset, a ``datum`` for each of
its blocks, and one event that names them. `io.run_documents` reads these as it reads those of today.

    RE.subscribe(ForDatabroker1(db.insert))
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from event_model.documents import EventDescriptor, StreamDatum, StreamResource

from bluesky_ptychonn.io.frame_files import path_of
from bluesky_ptychonn.io.run_documents import BLOCKS


class ForDatabroker1:
    """Hands documents on, with blocks of frames as databroker 1 keeps them.

    Parameters
    ----------
    insert : callable
        Takes name and document: ``db.insert`` of databroker 1.
    """

    def __init__(self, insert: Callable[[str, Any], object]) -> None:
        self._insert = insert
        self._forget()

    def _forget(self) -> None:
        self._keys: dict[str, str] = {}
        self._external: dict[str, set[str]] = {}
        self._coming: dict[tuple[str, int, int], dict[str, str]] = {}
        self._events: dict[str, int] = {}

    def __call__(self, name: str, doc: Any) -> None:
        """Take a document of a run."""
        if name == "start":
            self._forget()
        if name == "descriptor":
            self._describe(doc)
        elif name == "stream_resource":
            self._refer(doc)
        elif name == "stream_datum":
            self._add(doc)
        else:
            self._insert(name, doc)

    def _describe(self, doc: EventDescriptor) -> None:
        keys = {key: dict(about) for key, about in doc["data_keys"].items()}
        external = {key for key, about in keys.items() if str(about.get("external", "")).startswith("STREAM:")}
        for key in external:
            keys[key]["external"] = "FILESTORE:"
        if external:
            self._external[doc["uid"]] = external
        self._insert("descriptor", {**doc, "data_keys": keys})

    def _refer(self, doc: StreamResource) -> None:
        self._keys[doc["uid"]] = doc["data_key"]
        resource = {
            "uid": doc["uid"],
            "run_start": doc.get("run_start", ""),
            "spec": BLOCKS,
            "root": "/",
            "resource_path": str(path_of(doc["uri"])).lstrip("/"),
            "resource_kwargs": {"data_key": doc["data_key"], **doc["parameters"]},
            "path_semantics": "posix",
        }
        self._insert("resource", resource)

    def _add(self, doc: StreamDatum) -> None:
        indices = doc["indices"]
        datum_id = f"{doc['stream_resource']}/{indices['start']}"
        kwargs = {"start": indices["start"], "stop": indices["stop"]}
        self._insert("datum", {"datum_id": datum_id, "resource": doc["stream_resource"], "datum_kwargs": kwargs})
        block = doc["descriptor"], indices["start"], indices["stop"]
        data = self._coming.setdefault(block, {})
        data[self._keys[doc["stream_resource"]]] = datum_id
        if data.keys() == self._external[doc["descriptor"]]:
            self._insert("event", self._event(doc["descriptor"], self._coming.pop(block)))

    def _event(self, descriptor: str, data: dict[str, str]) -> dict[str, Any]:
        self._events[descriptor] = self._events.get(descriptor, 0) + 1
        now_s = time.time()
        return {
            "uid": str(uuid.uuid4()),
            "descriptor": descriptor,
            "seq_num": self._events[descriptor],
            "time": now_s,
            "data": data,
            "timestamps": dict.fromkeys(data, now_s),
            "filled": dict.fromkeys(data, False),
        }
