"""Files that are whole or not there."""

import os
import uuid
from pathlib import Path


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file under another name, through to the disk, and rename it into place.

    Whatever happens before the rename, a full disk or a kill, leaves the file that was there.

    Raises
    ------
    OSError
        If it cannot be written; nothing has changed then.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        remedy = "free some space, or choose another folder; what was there before is unchanged"
        raise OSError(error.errno, f"{error.strerror}; {remedy}", str(path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
