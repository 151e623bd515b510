"""Settings files as text: a commented one to begin with, and what is in force."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bluesky_ptychonn.config import Settings, read_tables
from bluesky_ptychonn.io.toml_tables import allowed, as_toml, table_of

EXAMPLES = Path(__file__).parent.parent / "examples"
SIMULATED = "simulated"


def example_names() -> list[str]:
    """Beamlines that the package knows, the simulated one first."""
    return sorted((path.stem for path in EXAMPLES.glob("*.toml")), key=lambda name: (name != SIMULATED, name))


def commented(example: str) -> str:
    """A settings file of an example: every key with its meaning and range; those left at their default are comments."""
    path = EXAMPLES / f"{example}.toml"
    given = read_tables(path)
    lines = [*_head(path.read_text(encoding="utf-8")), "#"]
    lines += ["# What is commented out stands at its default. `bluesky-ptychonn config check` looks at all of it.", ""]
    for table in Settings.model_fields:
        lines += [f"[{table}]", *_as_comments((table_of(Settings, table).__doc__ or "").strip()), ""]
        lines += _keys(table, given.get(table, {}))
    return "\n".join(lines)


def _head(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _as_comments(text: str) -> list[str]:
    return [f"# {line.strip()}".rstrip() for line in text.replace("``", "`").splitlines()]


def _keys(table: str, given: Mapping[str, Any]) -> Iterator[str]:
    model = table_of(Settings, table)
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        line = f"{key} = {as_toml(given[key])}" if key in given else f"# {key} ="
        if key not in given and default is not None:
            line += f" {as_toml(default)}"
        told = "; ".join(text for text in (field.description, allowed(model, key)) if text)
        yield f"{line}  # {told}" if told else line
    yield ""


def in_force(settings: Settings, path: Path | None) -> str:
    """All settings as TOML, each with where it comes from: the file, or the default.

    Parameters
    ----------
    settings : Settings
        As loaded; paths are absolute.
    path : Path, optional
        The file they were loaded from.
    """
    raw = read_tables(path) if path is not None else {}
    rows: list[tuple[str, str]] = []
    for table in Settings.model_fields:
        rows.append((f"[{table}]", ""))
        for key, value in getattr(settings, table).model_dump(mode="json").items():
            origin = path.name if path is not None and key in raw.get(table, {}) else "default"
            rows.append((f"# {key} =" if value is None else f"{key} = {as_toml(value)}", origin))
        rows.append(("", ""))
    width = min(60, max(len(line) for line, _ in rows))
    head = f"# settings of {path.resolve()}" if path is not None else "# no settings file; defaults"
    return "\n".join([head, "", *(f"{line:<{width}}  # {origin}" if origin else line for line, origin in rows)])
