"""Images in the catalog, beside the raw runs that they were made of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PROCESSED = "processed"


def register(runs: Any, uid: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    """Put images of a run into the catalog, beside the runs; earlier ones of the same run stay.

    Parameters
    ----------
    runs : tiled client
        Catalog of runs, as `io.catalog.connect` gives it.
    uid : str
        Of the run.
    arrays : mapping of str to array
    about : mapping
        How they were made: plain values.

    Returns
    -------
    str
        Where they are: ``processed/<uid>/<number>``, beside the runs.

    Raises
    ------
    PermissionError
        If the catalog does not let this user write.
    """
    from tiled.client.utils import ClientError

    try:
        processed = _container(_parent(runs), PROCESSED, {})
        of_run = _container(processed, uid, {"run_uid": uid})
        number = str(1 + max((int(key) for key in of_run if key.isdigit()), default=0))
        made = of_run.create_container(number, metadata=dict(about))
        for name, array in arrays.items():
            made.write_array(np.ascontiguousarray(array), key=name)
    except ClientError as error:
        raise PermissionError(f"the catalog does not take images of run {uid}: {error}") from error
    return f"{PROCESSED}/{uid}/{number}"


def images_of(runs: Any, uid: str) -> Any:
    """Images of a run by their number: a container, empty where there are none."""
    parent = _parent(runs)
    return parent[PROCESSED][uid] if PROCESSED in parent and uid in parent[PROCESSED] else {}


def _parent(runs: Any) -> Any:
    """What holds the catalog of runs."""
    from tiled.client import from_context

    root = from_context(runs.context)
    for key in runs.path_parts[:-1]:
        root = root[key]
    return root


def _container(parent: Any, key: str, metadata: Mapping[str, Any]) -> Any:
    return parent[key] if key in parent else parent.create_container(key, metadata=dict(metadata))
