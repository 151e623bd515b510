"""A core of the processor for inference alone."""

import contextlib
import os


def leave_core(core: int) -> None:
    """Keep the threads of this process, and all that they start from now on, off a core.

    Raises
    ------
    ValueError
        If this process may not run there, or nowhere else.
    """
    allowed = os.sched_getaffinity(0)
    if core not in allowed or len(allowed) < 2:
        raise ValueError(
            f"engine_core = {core}: this process may run on cores {sorted(allowed)}; name one of two or more, or none"
        )
    for thread in os.listdir("/proc/self/task"):  # libraries have some by now, which would compile models there
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), allowed - {core})
