"""Is everything there that a scan with a live image needs? Looks at all of it within a minute, and changes nothing.

    bluesky-ptychonn doctor              a table: what was found, and what to do about it
    bluesky-ptychonn doctor --json       the same for programs

Settings and files; PVs with their types, plugins and queues, clocks; frames on pvAccess; edge; engine, GPU and model;
Tiled; disks; journal and scheduler of the loop. Ends with 0 if nothing stands in the way of a scan, else with 1.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from bluesky_ptychonn.cli.doctor_checks import Finding, Level, as_warning, file_findings
from bluesky_ptychonn.cli.settings import add_settings_option
from bluesky_ptychonn.config import Settings, load_settings

LONGEST_S = 55.0
WIDTH = 110
MARKS: dict[Level, tuple[str, str]] = {"ok": ("ok", "32"), "warn": ("warn", "33"), "bad": ("BAD", "31;1")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(options: argparse.Namespace) -> int:
    """Look, and tell."""
    settings = load_settings(options.settings)
    settings.apply_epics_environment()
    began_s = time.monotonic()
    findings = examine(settings, file_findings(settings, options.settings))
    if options.json:
        print(json.dumps({"healthy": not verdict(findings), "findings": [vars(finding) for finding in findings]}))
    else:
        print(told(findings, colours=sys.stdout.isatty()))
        print(f"\n{summary(findings)} ({time.monotonic() - began_s:.1f} s)")
    return verdict(findings)


def examine(settings: Settings, files: Sequence[Finding]) -> list[Finding]:
    """Make every check, those that wait at the same time.

    Parameters
    ----------
    settings : Settings
        Their EPICS environment has been applied.
    files : sequence of Finding
        Of `doctor_checks.file_findings`.
    """
    from bluesky_ptychonn.cli import doctor_checks_services as services
    from bluesky_ptychonn.cli.doctor_checks_beamline import beamline_findings
    from bluesky_ptychonn.cli.doctor_checks_frames import edge_findings, frame_findings

    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="doctor")
    end_s = time.monotonic() + LONGEST_S

    def begin(check: Callable[..., list[Finding]], *arguments: object) -> "Future[list[Finding]]":
        return pool.submit(check, settings, *arguments)

    edge = pool.submit(edge_findings, settings)
    engine, gpu = begin(services.engine_findings), begin(services.gpu_findings)
    rest = [begin(check) for check in (services.tiled_findings, services.folder_findings, services.loop_findings)]
    findings, stream = beamline_findings(settings)
    if stream.channel:
        findings += _result(begin(frame_findings, stream.channel, stream.roi_shape), "frames", end_s)
    told_of_edge, serves = edge.result()
    inference = [*_result(engine, "engine", end_s), *_result(gpu, "GPU", end_s)]
    findings = [*files, *findings, *told_of_edge, *(map(as_warning, inference) if serves else inference)]
    for name, future in zip(("Tiled", "folders", "loop"), rest):
        findings += _result(future, name, end_s)
    pool.shutdown(wait=False, cancel_futures=True)
    return findings


def _result(future: "Future[list[Finding]]", name: str, end_s: float) -> list[Finding]:
    """What a check found; one that fails or takes too long has found that."""
    if not wait([future], max(0.0, end_s - time.monotonic())).done:
        return [Finding(name, "bad", f"no answer within {LONGEST_S:g} s", "look at it by hand; something hangs")]
    error = future.exception()
    if error is not None:
        return [Finding(name, "bad", f"{type(error).__name__}: {error}", "this is a fault of the doctor; report it")]
    return future.result()


def verdict(findings: Sequence[Finding]) -> int:
    """Exit code: 0 if nothing is bad, else 1."""
    return int(any(finding.level == "bad" for finding in findings))


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many findings of each kind."""
    bad, warn = (sum(finding.level == level for finding in findings) for level in ("bad", "warn"))
    if bad:
        return f"{bad} of {len(findings)} findings are bad: a scan or its live image fails"
    return f"nothing stands in the way of a scan; {warn} of {len(findings)} findings are worth knowing"


def told(findings: Sequence[Finding], *, colours: bool = False) -> str:
    """Findings as a table, remedies below them."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark, colour = MARKS[finding.level]
        shown = f"\x1b[{colour}m{mark:<4}\x1b[0m" if colours else f"{mark:<4}"
        indent = " " * (width + 7)
        text = textwrap.wrap(finding.what, WIDTH - len(indent), break_long_words=False) or [""]
        remedy = textwrap.wrap(f"-> {finding.remedy}", WIDTH - len(indent), break_long_words=False)
        first, *others = [*text, *(remedy if finding.remedy else [])]
        lines += [f"{shown} {finding.name:<{width}}  {first}", *(indent + line for line in others)]
    return "\n".join(lines)
