"""Pages that are written anew at each build: settings from their models, commands from their parsers, the gallery."""

import argparse
import ast
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.main import COMMANDS, build_parser
from bluesky_ptychonn.config import Settings
from bluesky_ptychonn.io.toml_tables import allowed, as_toml, table_of

HEAD = "% Written by docs/_ext/generated_pages.py; not to be edited.\n"
GALLERY = """
Scripts to begin with; each runs from an empty folder, writes its pictures there, and is run by a test. They lie in
`gallery/` of the project.
"""
SETTINGS = """
One TOML file, `bluesky_ptychonn.toml`. `bluesky-ptychonn config init` writes a commented one, `config check` reads it,
`config show` tells what is in force and where it comes from. It is found through `--settings`, else the variable
`BLUESKY_PTYCHONN_SETTINGS`, else in the working directory; relative paths in it start from its own folder. Unknown
keys are refused with the nearest known one.
"""
COMMAND_LINE = """
`bluesky-ptychonn --verbose COMMAND ...` logs what happens, not only warnings, and shows where an error came from. Exit
status: 0 done, 1 a problem that was told, 2 wrong usage, 128 + number on a signal.
"""


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Any) -> None:
    """Write `gallery.md`, `reference/settings.md` and `reference/commands/`."""
    folder = Path(app.srcdir) / "reference"
    write(folder.parent / "gallery.md", gallery_page(folder.parents[1] / "gallery"))
    write(folder / "settings.md", settings_page())
    for name, text in command_pages():
        write(folder / "commands" / f"{name}.md", text)


def write(path: Path, lines: Iterable[str]) -> None:
    """Write a page, if it is not the same already: Sphinx reads again what is newer."""
    text = HEAD + "\n".join(lines) + "\n"
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def gallery_page(folder: Path) -> Iterator[str]:
    """Every script of the gallery: its docstring as text, the rest as code."""
    yield "# Gallery\n"
    yield GALLERY
    for script in sorted(folder.glob("[0-9]*.py")):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        code = tree.body[0].end_lineno or 0
        yield f"## {script.stem.split('_', 1)[1].replace('_', ' ').capitalize()}\n"
        yield (ast.get_docstring(tree) or "") + "\n"
        yield f"```{{literalinclude}} ../gallery/{script.name}\n:language: python\n:lines: {code + 2}-\n```\n"


def settings_page() -> Iterator[str]:
    """Every table and key of the settings, in the order of a settings file."""
    yield "# Settings\n"
    yield SETTINGS
    for table in Settings.model_fields:
        model = table_of(Settings, table)
        yield f"(settings-{table})=\n## `[{table}]`\n"
        yield (model.__doc__ or "").strip().replace("\n    ", "\n").replace("``", "`") + "\n"
        for key, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            yield f"::::{{confval}} {table}.{key}"
            yield f":default: {f'`{as_toml(default)}`' if default is not None else 'none'}\n"
            told = [(field.description or "").replace("``", "`"), choices(model, key)]
            yield ". ".join(sentence(text) for text in told if text) + "\n::::\n"


def choices(model: Any, key: str) -> str:
    """What is allowed, in words."""
    return f"allowed: {limits}" if (limits := allowed(model, key)) else ""


def sentence(text: str) -> str:
    """Text that begins a sentence."""
    return text[:1].upper() + text[1:]


def command_pages() -> Iterator[tuple[str, Iterator[str]]]:
    """A page for each command, and one that lists them."""
    parser = build_parser()
    yield "index", index_page()
    for name, command in subparsers(parser).items():
        yield name, command_page(command)


def index_page() -> Iterator[str]:
    """The list of the commands."""
    yield "# Commands\n"
    yield COMMAND_LINE
    yield "| command | what it does |\n|---|---|"
    for name, purpose in COMMANDS.items():
        yield f"| [`{name}`]({name}.md) | {purpose} |"
    yield "\n```{toctree}\n:hidden:\n"
    yield from COMMANDS
    yield "```"


def command_page(parser: argparse.ArgumentParser, level: int = 1) -> Iterator[str]:
    """What a parser says of itself, and of its actions."""
    yield f"{'#' * level} {parser.prog}\n"
    yield from described(parser.description or "")
    usage = parser.format_usage().replace("usage: ", "       ", 1)
    yield "\n```text\n" + textwrap.dedent(usage).rstrip() + "\n```\n"
    yield f"```{{program}} {parser.prog}\n```\n"
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if is_told(action)]
        if actions and group.title not in {"positional arguments", "options"}:
            yield f"**{sentence(group.title or '')}**\n"
        for action in actions:
            yield f"::::{{option}} {', '.join(names_of(action))}\n"
            yield (formatter._expand_help(action) if action.help else "") + "\n"
            if action.choices and "{" not in (action.help or ""):
                yield f"One of {', '.join(f'`{choice}`' for choice in action.choices)}.\n"
            yield "::::\n"
    for command in subparsers(parser).values():
        yield from command_page(command, level + 1)


def described(text: str) -> Iterator[str]:
    """A docstring, its indented lines as literal blocks."""
    for paragraph in text.strip("\n").split("\n\n"):
        literal = paragraph.startswith("    ")
        yield f"```text\n{textwrap.dedent(paragraph)}\n```\n" if literal else paragraph + "\n"


def is_told(action: argparse.Action) -> bool:
    """Whether an action is an option or argument of its own."""
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not hidden and action.help is not argparse.SUPPRESS


def names_of(action: argparse.Action) -> list[str]:
    """How an option or argument is written."""
    metavar = action.metavar if action.metavar is not None else action.dest.upper()
    shown = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    if not action.option_strings:
        return [shown if action.metavar else action.dest]
    return [name if action.nargs == 0 else f"{name} {shown}" for name in action.option_strings]


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parsers of the actions of a command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
