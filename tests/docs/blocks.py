"""The code blocks of README and documentation: found by Sybil, checked or run by what each language asks for."""

import ast
import configparser
import contextlib
import doctest
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import tomllib
from sybil import Document, Example, Sybil
from sybil.parsers.myst import CodeBlockParser

from bluesky_ptychonn.cli.main import build_parser
from bluesky_ptychonn.config import VARIABLE, load_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMAND = re.compile(r"(?<![\w.-])bluesky-ptychonn +([^|;&>#)`\n]*)")
EXTRAS = re.compile(r"pip install [^\n]*bluesky-ptychonn\[([\w,]+)\]")
TARGETS = re.compile(r"^\s*make (\w+)", re.MULTILINE)
FENCE = re.compile(r"^[ >]*```(\w+)", re.MULTILINE)
Evaluator = Callable[[Example], None]


def pages() -> list[Path]:
    """README and every page that is written by hand."""
    generated = {"_build", "generated", "commands", "settings.md", "gallery.md"}
    found = [path for path in DOCS.rglob("*.md") if not set(path.relative_to(DOCS).parts) & generated]
    return [ROOT / "README.md", *sorted(found)]


def read(page: Path, **evaluators: Evaluator) -> Document:
    """A page with its blocks, each of which can be evaluated.

    Parameters
    ----------
    page : Path
    **evaluators
        What to do with a block, by language. A language that is missing here must not be on the page.
    """
    unknown = set(FENCE.findall(page.read_text(encoding="utf-8"))) - set(evaluators)
    assert not unknown, f"{page} has blocks of {unknown}, which nothing checks"
    parsers = [CodeBlockParser(language, evaluator) for language, evaluator in evaluators.items()]
    return Sybil(parsers=parsers).parse(page)


def leave(example: Example) -> None:
    """What a program prints, or a drawing."""


@functools.cache
def parser():
    """Parser of all our commands."""
    return build_parser()


def check_command(arguments: str) -> None:
    """Refuse arguments that a command does not take."""
    told, status = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            parser().parse_args(shlex.split(arguments))
    except SystemExit as end:
        status = end.code
    assert not status, f"bluesky-ptychonn {arguments}: {told.getvalue().splitlines()[-1]}"


def check_bash(example: Example) -> None:
    """Refuse wrong syntax, options that our commands do not have, and extras and targets that we do not have."""
    text = str(example.parsed)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in EXTRAS.findall(text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras
    for target in TARGETS.findall(text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for arguments in COMMAND.findall(re.sub(r"\\\n\s*", " ", text)):
        with contextlib.suppress(ValueError):  # a quotation that a | or ; ends: it is run elsewhere
            check_command(arguments.rstrip('"'))


def check_toml(example: Example) -> None:
    """Refuse what is no part of a settings file."""
    file = Path("settings_of_a_page.toml")
    file.write_text(str(example.parsed), encoding="utf-8")
    load_settings(file)


def check_ini(example: Example) -> None:
    """Refuse a systemd unit whose command does not exist."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(str(example.parsed))
    check_command(unit["Service"]["ExecStart"].split("bluesky-ptychonn ", 1)[1])


def check_python(example: Example) -> None:
    """Refuse wrong syntax, and imports of what is not there."""
    for node in ast.walk(ast.parse(str(example.parsed))):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{node.module} has no {missing}"


def run_python(example: Example) -> None:
    """Run a block in the namespace of its page; what it prints is kept for a block of text behind it."""
    told = io.StringIO()
    where = f"{example.path}, line {example.line}"
    with contextlib.redirect_stdout(told):
        exec(compile(str(example.parsed), where, "exec"), example.namespace)
    example.namespace["told"] = told.getvalue()


class Terminal:
    """One bash, into which the blocks of a page are typed; it knows nothing of the beamline of this process."""

    END = "--end of the block--"

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("EPICS")}
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**kept, "PATH": path, "MPLBACKEND": "Agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, example: Example) -> None:
        """Run a block, which has to succeed; what it prints is kept for a block of text behind it."""
        told = self.run(str(example.parsed))
        assert told[-1] == "0", f"{example.path}, line {example.line}:\n{''.join(told[:-1])}"
        example.namespace["told"] = "".join(told[:-1])

    def run(self, text: str) -> list[str]:
        """Lines that a block prints, and its exit status: that of its first line that fails."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f'set -eE; trap \'echo "{self.END}$?"\' ERR\nset +e\n{text}\necho "{self.END}$?"\n')
        self._bash.stdin.flush()
        told: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(self.END):
                return [*told, line.removeprefix(self.END).strip()]
            told.append(line)
        raise EOFError("".join(told))

    def close(self) -> None:
        """End it."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait(timeout=20)


def check_output(example: Example) -> None:
    """Refuse a block of text that the block before it did not print; ``...`` stands for anything."""
    want, got = " ".join(str(example.parsed).split()), " ".join(str(example.namespace["told"]).split())
    found = doctest.OutputChecker().check_output(f"... {want} ...\n", f". {got} .\n", doctest.ELLIPSIS)
    assert found, f"{want}\nnot in\n{got}"
