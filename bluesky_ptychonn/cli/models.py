"""The model store: what is live, what it replaced, and whether something better may replace it.

    bluesky-ptychonn models list --store STORE                     versions, the live one marked, and what was refused
    bluesky-ptychonn models show 42 --store STORE                  its card, its files and golden pair checked now
    bluesky-ptychonn models validate MODEL --scan scan.npz --reconstruction scan_reconstruction.cxi
    bluesky-ptychonn models validate starter --scan scan.cxi --picture starter.png        no reconstruction: residual
    bluesky-ptychonn models publish MODEL --store STORE --scan a.npz b.npz --reconstruction a.cxi b.cxi --corpus corpus
    bluesky-ptychonn models rollback --store STORE                 back to the version before the live one
    bluesky-ptychonn models rollback 42 --store STORE              or to any other
    bluesky-ptychonn models import weights.pth --out MODEL         a model of published weights, or of a graph (.onnx)

Without --store it is `edge.model` of the settings, the store that the edge reads; the edge takes up a change between
two batches. MODEL is a folder with a card, a number in the store, `live`, `starter` or `large` (of the package) or, to
compare with no network at all, `lift`.

`publish` is a gate. A candidate reaches the store only if its files and golden pair hold, and if it beats the live
model on held-out scans: on the mean by --margin in SSIM with the reconstructions, or, where no scan has one that is
trusted, by that share of the residual; and no scan may lose more than 0.02. A refused candidate is kept in
STORE/refused with the reason, and never opened by an edge. Exit status: 0 published, 1 refused.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.settings import add_settings_option
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.engines.registry import AUTO

LIVE, LIFT = "live", "lift"
SHORT = 12
"""Digits of a hash that are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from bluesky_ptychonn.cli.models_judging import add_publish_options, add_validate_options

    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    parsers = {name: actions.add_parser(name, help=purpose, description=purpose) for name, purpose in ACTIONS.items()}
    parsers["show"].add_argument("model", metavar="MODEL", nargs="?", default=LIVE, help="default: live")
    add_validate_options(parsers["validate"])
    add_publish_options(parsers["publish"])
    parsers["rollback"].add_argument(
        "version", nargs="?", metavar="VERSION", help="default: the one before the live one"
    )
    importing = parsers["import"]
    importing.add_argument("weights", type=Path, metavar="WEIGHTS", help="PtychoNN 2.0 (.pth) or a graph (.onnx)")
    importing.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the model")
    importing.add_argument("--version", default="published-1", help="for the card; default: published-1")
    importing.add_argument(
        "--reference-counts",
        type=float,
        metavar="PHOTONS",
        help="per frame, to which its input is scaled",
    )
    for name in ("show", "validate", "publish"):
        parsers[name].add_argument("--engine", default="openvino", help=f"auto, {', '.join(AUTO)}; default: openvino")
    for name in ACTIONS:
        if name != "import":
            parsers[name].add_argument("--store", type=Path, metavar="DIR", help="default: edge.model of the settings")
            add_settings_option(parsers[name])


ACTIONS = {
    "list": "versions of a store, the live one marked, and what was refused",
    "show": "the card of a model; its files and golden pair are checked now",
    "validate": "any model on any scan: against a reconstruction, or against the patterns alone",
    "publish": "make a model live, if it is better than the live one on held-out scans",
    "rollback": "make the version before the live one live again, or another one",
    "import": "make a model of published weights",
}


def run(options: argparse.Namespace) -> int:
    """Do one of the actions."""
    from bluesky_ptychonn.cli import models_judging

    actions = {
        "list": _list,
        "show": _show,
        "validate": models_judging.run_validate,
        "publish": models_judging.run_publish,
        "rollback": _rollback,
        "import": _import,
    }
    return actions[options.action](options)


def store_of(options: argparse.Namespace) -> Path:
    """Store that the options or the settings name.

    Raises
    ------
    Problem
        If they name none.
    """
    from bluesky_ptychonn.config import load_settings

    store = options.store or load_settings(options.settings).edge.model
    if store is None:
        raise Problem("no model store is named; give --store DIR, or edge.model in the settings")
    return store


def folder_of(options: argparse.Namespace, model: str) -> Path:
    """Folder of the model that a user names.

    Raises
    ------
    Problem
        If the name needs a store and there is none.
    """
    from bluesky_ptychonn.engines import registry
    from bluesky_ptychonn.io.model_store import REFUSED, VERSIONS, live_version

    if model in registry.PACKAGED:
        return registry.PACKAGED[model]
    if model == LIVE:
        store = store_of(options)
        live = live_version(store)
        if not live:
            raise Problem(f"nothing is live in {store}; publish a model first, or name one")
        return store / VERSIONS / live
    if model.isdigit():
        return store_of(options) / VERSIONS / f"{int(model):06d}"
    part, _, number = model.partition("/")
    if part == REFUSED and number.isdigit() and not Path(model).exists():
        return store_of(options) / REFUSED / f"{int(number):06d}"
    if not Path(model).is_dir():
        raise Problem(
            f"{model} is no folder of a model; give one, a number in the store, {LIVE}, "
            f"{', '.join(registry.PACKAGED)} or {LIFT}"
        )
    return Path(model)


def existing_store(options: argparse.Namespace) -> Path:
    """Store that the options name, in which something was published or refused; `Problem` if there is none."""
    from bluesky_ptychonn.io.model_store import REFUSED, VERSIONS

    store = store_of(options)
    if not any((store / part).is_dir() for part in (VERSIONS, REFUSED)):
        raise Problem(f"{store} is no model store; `bluesky-ptychonn models publish MODEL --store {store}` makes one")
    return store


def _list(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.io.model_store import (
        REFUSED,
        VERSIONS,
        live_version,
        read_card,
        read_decision,
        refused,
        versions,
    )

    store = existing_store(options)
    try:
        live = live_version(store)
    except EngineMismatch as error:
        live = ""
        print(f"{error}; name one by `models rollback VERSION`")
    rows = [("", "version", "name", "corpus", "parent", "SSIM", "gain")]
    told = []
    for number in versions(store):
        mark = "*" if number == live else ""
        try:
            card = read_card(store / VERSIONS / number)
        except (FileNotFoundError, EngineMismatch) as error:
            rows.append((mark, number, "harmed", "", "", "", ""))
            told.append(f"{number} is harmed: {error}")
            continue
        figures = _figure(card, "ssim"), _figure(card, "gain")
        rows.append((mark, number, card.name, card.corpus[:SHORT], card.parent, *figures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("* is live; `models show VERSION` tells more" if live else "nothing is live")
    for number in refused(store):
        folder = store / REFUSED / number
        try:
            name = read_card(folder).name
        except (FileNotFoundError, EngineMismatch):
            name = "unreadable"
        told.append(f"refused/{number} ({name}): {read_decision(folder)['reason']}")
    print("\n".join(told), end="\n" if told else "")
    return 0


def _figure(card: ModelCard, name: str) -> str:
    """A figure of the gate in a card, as text."""
    value = card.training.get("validation", {}).get(name)
    return f"{value:.4f}" if isinstance(value, float) else ""


def _show(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.model_store import CURRENT, DECISION, VERSIONS, current_version, read_card, read_decision

    folder = folder_of(options, options.model)
    if (folder / CURRENT).is_file():
        folder = folder / VERSIONS / current_version(folder)
    if (folder / DECISION).is_file():
        print(json.dumps(read_decision(folder), indent=1))
    card = read_card(folder)
    print("\n".join(_lines(card, folder)))
    try:
        engine = open_engine(options.engine, folder)
    except EngineMismatch as error:
        print(f"checked: NOT USABLE: {error}")
        return 1
    print(f"checked: its files are unharmed, and its golden pair holds in engine {engine.name}")
    return 0


def _lines(card: ModelCard, folder: Path) -> list[str]:
    """A card for a reader."""
    size_nm = "any" if card.pixel_size_um is None else f"{1e3 * card.pixel_size_um:.4g} nm"
    energy = "any" if card.energy_kev is None else f"{card.energy_kev:g} keV"
    counts = "as they are" if card.reference_counts is None else f"{card.reference_counts:g} photons per frame"
    lines = [
        f"{card.name} {card.version}, {folder}",
        f"patterns of {card.frame_px} px, patches of {card.patch_px} px; preparation: {card.preparation}",
        f"object pixels: {size_nm}; energy: {energy}; reference counts: {counts}",
        f"learned from: corpus snapshot {card.corpus or 'not told'}; replaced: version {card.parent or 'none'}",
    ]
    lines += [f"  {name}  SHA-256 {sha256[:SHORT]}..." for name, sha256 in card.files.items()]
    training = {key: value for key, value in card.training.items() if key not in ("validation", "history")}
    if training:
        lines += ["training:", *_indented(training)]
    validation = card.training.get("validation")
    if validation:
        lines += ["at the gate:", *_indented(validation)]
    return lines


def _indented(values: Mapping[str, Any], depth: int = 1) -> list[str]:
    """Nested tables as lines; those without values are left out."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{'  ' * depth}{key}:", *_indented(value, depth + 1)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for item in value:
                lines += [f"{'  ' * depth}{key}:", *_indented(item, depth + 1)]
        elif value not in (None, "", [], {}):
            lines.append(
                f"{'  ' * depth}{key}: {value:.5g}" if isinstance(value, float) else f"{'  ' * depth}{key}: {value}"
            )
    return lines


def _rollback(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.io.model_store import CURRENT, rollback

    store = existing_store(options)
    before = (store / CURRENT).read_text().strip() if (store / CURRENT).is_file() else "nothing"
    version = options.version
    if version is not None and version.isdigit():
        version = f"{int(version):06d}"
    if version is None and before == "nothing":
        raise Problem(f"nothing is live in {store}, so there is no way back; name the version")
    print(f"{store}: version {rollback(store, version)} is live; it was {before}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.training.learning.published import import_published

    card = import_published(
        options.weights, options.out, version=options.version, reference_counts=options.reference_counts
    )
    print(f"{options.out}: {card.name} {card.version}, patterns of {card.frame_px} px; try it with")
    print(f"  bluesky-ptychonn models validate {options.out} --scan FILE")
    return 0
