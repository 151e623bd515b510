"""Every code block of README and documentation is right: its syntax, its options, its settings, its names.

Tutorials are typed as a whole in `tests/soak/test_documentation.py`.
"""

import importlib
import re

import pytest
from blocks import (
    COMMAND,
    DOCS,
    ROOT,
    check_bash,
    check_command,
    check_ini,
    check_python,
    check_toml,
    leave,
    pages,
    read,
    run_python,
)

from bluesky_ptychonn.cli.main import COMMANDS

TYPED = (ROOT / "README.md", DOCS / "howto/probe_check.md", *(DOCS / "tutorials").glob("*.md"))
"""Whose Python needs a beamline."""
LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = check_python if page in TYPED else run_python
    document = read(page, bash=check_bash, toml=check_toml, ini=check_ini, python=python, text=leave)
    for example in document.examples():
        example.evaluate()


def test_there_are_blocks():
    """A pattern that finds nothing would pass."""
    found = [read(page, bash=leave, toml=leave, ini=leave, python=leave, text=leave) for page in pages()]
    assert sum(len(list(document.examples())) for document in found) > 50


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_a_command(name):
    """What stands after two blanks explains."""
    text = importlib.import_module(f"bluesky_ptychonn.cli.{name.replace('-', '_')}").__doc__ or ""
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.startswith("    bluesky-ptychonn")]
    for arguments in COMMAND.findall("\n".join(lines)):
        check_command(arguments.strip().split("  ")[0])


def test_links_of_the_readme():
    """Sphinx checks those of the site."""
    links = LINK.findall((ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("checked", "language", "text"),
    [
        (check_bash, "bash", "bluesky-ptychonn reconstruct -1 --no-such-option"),
        (check_bash, "bash", "if true"),
        (check_bash, "bash", "make no_such_target"),
        (check_bash, "bash", 'pip install "bluesky-ptychonn[no_such_extra]"'),
        (check_toml, "toml", "[geometry]\nenergy = 1.0"),
        (check_ini, "ini", "[Service]\nExecStart=/opt/bluesky-ptychonn edge --no-such-option"),
        (check_python, "python", "from bluesky_ptychonn.core.scan import no_such_name"),
        (run_python, "python", "assert False"),
    ],
)
def test_a_wrong_block_is_found(checked, language, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```{language}\n{text}\n```\n")
    (example,) = read(page, **{language: checked}).examples()
    with pytest.raises((AssertionError, ValueError)):
        example.evaluate()
