"""What there is, in ten lines; `ptycho_help()` shows them again."""


def ptycho_help():
    """Show what this profile gives."""
    print(
        "bluesky_ptychonn\n"
        "  RE(spiral_ptycho_scan(detector, stage, width_um=2, overlap_ratio=0.85, exposure_s=5e-4, dwell_s=2e-3,\n"
        "                        edge=edge, shutter=shutter))     the phase image grows while it runs\n"
        "  spiral_ptycho_scan?       every argument           fly=False       stop at each point\n"
        "  RE(probe_check(detector, stage, shutter=shutter, analysis=probe_analysis))\n"
        "                            probe, centre, mask, orientation; then probe_analysis.accept() writes them\n"
        "  Ctrl-C twice              pause; then RE.abort() or RE.resume()\n"
        "  cat[-1]                   the last run, from Tiled"
        + ("" if cat is not None else " (none: runs are kept in files)")  # noqa: F821 (made in 00-session.py)
        + ("\n  loop_status()             what the loop does with each scan" if settings.loop.enabled else "")  # noqa: F821
        + f"\n  pictures                  {settings.scan.picture_directory.resolve()}"  # noqa: F821
    )


ptycho_help()
