"""A core of the processor for inference alone."""

import os


def leave_core(core: int) -> None:
    """Keep this thread, and all that it starts from now on, off a core.

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
    os.sched_setaffinity(0, allowed - {core})
