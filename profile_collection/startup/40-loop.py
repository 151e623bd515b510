"""A line when the loop has done with a scan: mismatch before and after, new version or why not."""

if settings.loop.enabled:  # noqa: F821 (made in 00-session.py)
    from bluesky_ptychonn.callbacks.loop_news import LoopNews

    news = LoopNews(settings.loop.journal_file)  # noqa: F821
