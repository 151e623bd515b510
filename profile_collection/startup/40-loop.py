"""A line when the loop has done with a scan: mismatch before and after, new version or why not; `loop_status()`."""

import time

if settings.loop.enabled:  # noqa: F821 (made in 00-session.py)
    from bluesky_ptychonn.callbacks.loop_news import LoopNews
    from bluesky_ptychonn.cli.loop_parts import journal_of, terms_of
    from bluesky_ptychonn.cli.loop_status import SCANS_SHOWN, status_of, table_of

    news = LoopNews(settings.loop.journal_file)  # noqa: F821

    def loop_status():
        """Where every scan stands."""
        now_s = time.time()
        status = status_of(journal_of(settings), terms_of(settings), now_s)  # noqa: F821
        print(table_of(status, now_s, shown=SCANS_SHOWN))
