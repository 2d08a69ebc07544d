"""Data sets: what they are, how they load, how a batch is augmented. Nothing here imports torch.

dataset(name)   the facts of a built-in name
resolve(name)   what a name means here and now; never downloads
prepare(name)   fetch and decode it into the cache, once for all runs of a machine
load(name)      the decoded arrays, memory-mapped, or an index of image files; numpy only
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli import own_code
from tfkd_cli.data import cache as caches
from tfkd_cli.data import own
from tfkd_cli.data.facts import (
    AUGMENTATIONS,
    DATASETS,
    PARENTS,
    Arrays,
    Augmentation,
    DataSet,
    ResolvedData,
)
from tfkd_cli.data.image_files import Reading
from tfkd_cli.data.reader import EMBEDDED, Progress, Reader, reader_of, silent
from tfkd_cli.errors import RequestError, RunError, canonical, fold
from tfkd_cli.regular_files import expanded

if TYPE_CHECKING:
    from tfkd_cli.execution import Execution

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Arrays",
    "Augmentation",
    "DataSet",
    "Progress",
    "ResolvedData",
    "all_datasets",
    "at_size",
    "dataset",
    "load",
    "prepare",
    "recorded",
    "resolve",
]

GROUP = "tfkd.datasets"
OWN = "own images are folder:PATH, others torchvision:NAME; see `tfkd list datasets`."
SIZES = range(28, 513)  # pixels, of folder224: and torchvision224:
OWN_NAME = re.compile(
    r"(?P<kind>folder|torchvision)(?P<size>\d{0,4})(?P<marked>\.split(?P<split>\d{1,9}))?"
    r"(?P<separator>[:@])(?P<rest>.+)",
    re.DOTALL | re.IGNORECASE,
)


def dataset(name: str) -> DataSet:
    """The facts of a built-in name, of one that a package registers, or of `python:module:NAME`.

    RequestError with the nearest known name otherwise.
    """
    if name in DATASETS or name.startswith(own_code.PREFIX):
        return DATASETS.get(name) or _loaded(name)
    others = own_code.registered(GROUP)
    known = canonical(name, [*DATASETS, *others], kind="data set", hint=OWN)
    return DATASETS.get(known) or _loaded(own_code.of_entry_point(others[known]))


def all_datasets() -> dict[str, DataSet]:
    """The built-in data sets and those that installed packages register; the latter are imported."""
    return {name: dataset(name) for name in (*DATASETS, *own_code.registered(GROUP))}


def _loaded(place: str) -> DataSet:
    """The data set outside tfkd at `python:module:NAME`, as declared now; that module reads it by default."""
    expected = "a tfkd_cli.data.DataSet whose `module` reads it (see tfkd_cli/data/reader.py)."
    found = own_code.load(place, expected=expected)
    if not isinstance(found, DataSet):
        raise RequestError(f'"{place}" is a {type(found).__name__}.', expected=expected)
    module = place.removeprefix(own_code.PREFIX).partition(":")[0]
    return replace(found, name=place, module=found.module or module)


def resolve(name: str, *, execution: Execution, progress: Progress = silent) -> ResolvedData:
    """What `name` means here: official content, other content by fingerprint, ready or not. No network."""
    return _resolve(_asked(name, execution), None, execution, progress)


def recorded(name: str, *, execution: Execution) -> ResolvedData:
    """What a resolved name in a record means. Of a data set outside tfkd, nothing is decoded to tell that."""
    if name.partition("@")[0] in DATASETS or OWN_NAME.fullmatch(name):
        return resolve(name, execution=execution)
    known = caches.read_meta(execution.cache_path, name)
    if known is None:
        return ResolvedData(facts=replace(dataset(name.partition("@")[0]), name=name))
    return ResolvedData(facts=DataSet.from_json(known["facts"]), ready=True, available=True)


def prepare(
    name: str,
    *,
    execution: Execution,
    source: Path | None = None,
    allow_download: bool = False,
    progress: Progress | None = None,
) -> ResolvedData:
    """Have `name` decoded in the cache, from `source` or wherever it is; safe when many ask at once.

    What is decoded already is compared with its digests, and decoded again where it is damaged.
    RequestError when it is nowhere and may not be (or cannot be) downloaded, or is not what it should be.
    """
    report, asked = progress or silent, _asked(name, execution)

    def find() -> ResolvedData:
        return _resolve(asked, source, execution, report)

    resolved = find()
    damaged = caches.damaged(execution.cache_path, resolved.name)
    if damaged is not None:
        report(f"{damaged} is damaged or of an older version; {resolved.name} is decoded again", 0.0)
        resolved = find()  # now its source, where that is at hand
    if not resolved.available:
        _fetch(resolved, execution, damaged, allow_download=allow_download, progress=report)
        resolved = find()
    meta = caches.described(execution.cache_path, resolved.name) or {}
    # An index of the same files, in another place than the one that is given.
    moved = source is not None and meta.get("archives") and meta.get("origin") != resolved.source
    if moved or not resolved.ready:
        path = Path(resolved.source) if resolved.source else EMBEDDED
        decode = reader_of(resolved.facts).decode
        _decode(resolved.facts, path, execution, decode, progress=report, anew=bool(moved))
    check_files(resolved.name, execution=execution)
    if source is not None and asked.facts.name in DATASETS and resolved.name != asked.facts.name:
        caches.point(execution.cache_path, asked.facts.name, to=resolved.name)
    return _resolved(resolved.facts, execution, path=Path(resolved.source) if resolved.source else None)


def load(
    name: str, *, execution: Execution, reading: Reading = caches.READING, progress: Progress | None = None
) -> Arrays:
    """The data set of a resolved name, every file checked; decoded first if it needs no network.

    Image files that are not decoded in advance are read as `reading` says, from TFKD_DATA (a copy on this
    node), where this execution has them, or where they were indexed.
    """
    prepare(name, execution=execution, progress=progress)
    arrays = _arrays(name, execution, reading)
    if arrays is None:
        raise RunError(
            f"data set {name!r} is not in the cache {execution.cache}.",
            expected="a resolved name, as it stands in a run's spec.json.",
            hint=f"`tfkd data {name.split('@')[0]}` puts it there.",
        )
    return arrays


def check_files(name: str, *, execution: Execution) -> None:
    """RequestError where the cache has an index of image files, and they are not where `load` looks."""
    if (caches.described(execution.cache_path, name) or {}).get("archives"):  # else all is in the cache
        _arrays(name, execution)


def _arrays(name: str, execution: Execution, reading: Reading = caches.READING) -> Arrays | None:
    staged = Path(os.environ["TFKD_DATA"]) if os.environ.get("TFKD_DATA") else None
    places = [each for each in (staged, _source(name, execution)) if each is not None]
    return caches.load(execution.cache_path, name, places=places, reading=reading)


def at_size(name: str, pixels: int) -> str:
    """`folder.split1:PATH` → `folder224.split1:PATH`; a name that has a size, or takes none, stands."""
    match = OWN_NAME.fullmatch(name.strip())
    if match is None or match["size"]:
        return name
    return f"{match['kind'].lower()}{pixels}{match['marked'] or ''}{match['separator']}{match['rest']}"


@dataclass(frozen=True)
class Asked:
    """A name taken apart: the facts it starts from, its canonical form, the path it carries."""

    facts: DataSet
    name: str  # "cifar100", "tiny-imagenet@<12 hex>", "folder@<12 hex>", "folder" with a path
    path: Path | None = None
    own: bool = False  # outside tfkd: its content has the name that `own.decode` gives it


def _asked(name: str, execution: Execution) -> Asked:
    """`folder224.split3:PATH`, `folder@<12 hex>`, `torchvision96:NAME`, `digits`, `imagenet@<12 hex>`."""
    match = OWN_NAME.fullmatch(name.strip())
    if match is None:
        base, separator, digest = name.partition("@")
        known = caches.described(execution.cache_path, name) if own_code.is_own(base) and digest else None
        # Of what is decoded, the module may be gone.
        facts = replace(DataSet.from_json(known["facts"]), name=base) if known else dataset(base)
        return Asked(facts, f"{facts.name}{separator}{digest}", own=own_code.is_own(facts.name))
    kind, rest = match["kind"].lower(), match["rest"]
    size, split = int(match["size"] or 0), int(match["split"] or 0)
    if split and kind != "folder":
        raise RequestError(f"{name[:80]!r} asks for a split.", expected="one of folder:PATH only.")
    if size and size not in SIZES:
        raise RequestError(f"{name[:80]!r} asks for {size} pixels.", expected=f"{SIZES[0]} to {SIZES[-1]}.")
    if "\0" in rest:
        raise RequestError("a path cannot hold a NUL character.")
    if kind == "torchvision":
        sets = importlib.import_module("tfkd_cli.data.torchvision_sets")  # which leads to torchvision
        built_in = [each for each in DATASETS if fold(each) == fold(rest)]
        facts = dataset(built_in[0]) if built_in else sets.named(rest, size=size)
        return Asked(facts, facts.name)
    from tfkd_cli.data.folder import template

    facts = replace(template(size, split=split), follow_links=execution.follow_links, nested=execution.nested)
    if match["separator"] == ":":
        return Asked(facts, facts.name, expanded(Path(rest), hint="write the whole path."))
    content = f"{facts.name}@{rest}"
    if known := caches.described(execution.cache_path, content):  # to be read in the same way again
        before = known["facts"]
        facts = replace(facts, follow_links=before["follow_links"], nested=before["nested"])
    return Asked(facts, content)


def _resolve(asked: Asked, given: Path | None, execution: Execution, progress: Progress) -> ResolvedData:
    """What is asked for; where a path is given (`--from PATH`), this alone decides."""
    cache, facts = execution.cache_path, asked.facts
    changing = asked.own and asked.name == facts.name  # its content is what its module decodes now
    if given is asked.path is None and not changing and caches.read_meta(cache, asked.name):
        source = _source(asked.name, execution)
        return _resolved(replace(facts, name=asked.name), execution, path=source)
    reader = reader_of(facts)
    found = reader.locate([_existing(given)] if given else _places(asked, execution), facts)
    if given is not None and (
        found in (None, EMBEDDED) or not found.resolve().is_relative_to(given.resolve())
    ):
        raise _nothing_of(facts, reader, given)
    pointed = caches.pointed(cache, asked.name) if found is None else None
    if pointed is not None and caches.read_meta(cache, pointed):
        return resolve(pointed, execution=execution, progress=progress)
    if found is None:
        return _missing(asked, reader, execution)
    if asked.own:
        identified = _decode(facts, found, execution, own.decode, progress=progress, anew=True) or facts
    else:
        # A reader that takes long says how far it is, where it has a parameter for that.
        watched = "progress" in inspect.signature(reader.identify).parameters
        more: dict[str, Any] = {"progress": progress} if watched else {}
        identified = reader.identify(found, facts, cache=cache, **more)
    if asked.name not in (facts.name, identified.name):
        raise RequestError(
            f"{facts.label if asked.own else found} is {identified.name} now, {asked.name} was asked for.",
            expected="the content the run was planned with.",
            hint="undo the change, or plan anew: other content gives other runs.",
        )
    if asked.own:  # as it is declared now
        return ResolvedData(facts=identified, source=_text(found), ready=True, available=True)
    return _resolved(identified, execution, path=found)


def _nothing_of(facts: DataSet, reader: Reader, given: Path) -> RequestError:
    lacks = reader.lacks(given) if given.is_dir() else ""
    return RequestError(
        f"{str(given)!r} holds nothing of {facts.label}{f': {lacks}' * bool(lacks)}.",
        expected=f"{facts.source}.",
        hint=f"`tfkd data {facts.name}` without --from finds or downloads them."
        if reader.DOWNLOAD
        else "give the folder that holds them: --from DIR.",
    )


def _source(name: str, execution: Execution) -> Path | None:
    return Path(execution.sources[name]) if name in execution.sources else None


def _places(asked: Asked, execution: Execution) -> Sequence[Path]:
    """Where to look, first to last; a place that was named must be there."""
    if asked.path is not None:
        return [_existing(asked.path)]
    cache, parent = execution.cache_path, PARENTS.get(asked.facts.name)
    names = [asked.name, *([caches.pointed(cache, parent) or parent] if parent else [])]
    known = [caches.described(cache, name) or {} for name in names]
    places = [_source(asked.name, execution), *(Path(each["origin"]) for each in known if each.get("origin"))]
    if not asked.facts.name.startswith("folder"):
        places += [_data_dir(execution), cache / "downloads"]
    return [place for place in places if place is not None and place.exists()]


def _data_dir(execution: Execution) -> Path | None:
    data_dir = (
        expanded(Path(execution.data_dir), hint="write the whole path.") if execution.data_dir else None
    )
    if data_dir is not None and not data_dir.is_dir():
        raise RequestError(
            f"the data folder {str(data_dir)!r} is not a folder.",
            expected="a folder with official files.",
            hint="check --data-dir or TFKD_DATA.",
        )
    return data_dir


def _existing(path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"is no path: {error.strerror}"
        raise RequestError(
            f"{str(path)[:200]!r} {reason}.",
            expected="a file or a folder.",
            hint="a path is taken from the folder the command is given in; write the whole of it.",
        ) from error
    return path


def _resolved(facts: DataSet, execution: Execution, *, path: Path | None) -> ResolvedData:
    meta = caches.read_meta(execution.cache_path, facts.name)
    if meta is None:
        return ResolvedData(facts=facts, source=_text(path), available=True)
    source, known = _text(path) or meta.get("origin") or None, DataSet.from_json(meta["facts"])
    if facts.source == source and "found" in meta:  # looked at now; decoded from another place, perhaps
        notes = tuple(dict.fromkeys((*facts.notes, *meta["found"])))
        known = replace(known, label=facts.label, source=facts.source, notes=notes)
    return ResolvedData(facts=known, source=source, ready=True, available=True)


def _text(path: Path | None) -> str | None:
    return None if path is None or path == EMBEDDED else str(path.absolute())


def _missing(asked: Asked, reader: Reader, execution: Execution) -> ResolvedData:
    if asked.name == asked.facts.name and not asked.facts.name.startswith("folder"):
        return ResolvedData(facts=asked.facts, download=reader.DOWNLOAD)
    damaged = caches.damaged(execution.cache_path, asked.name)
    state = "is not in the cache" if damaged is None else f"is damaged in the cache ({damaged})"
    raise RequestError(
        f"{asked.name} {state}, and what it was made of is not at hand.",
        expected="the folder or file it was made of.",
        hint="name it once more: --dataset folder:PATH, or `tfkd data NAME --from PATH`.",
    )


def _fetch(
    resolved: ResolvedData,
    execution: Execution,
    damaged: Path | None,
    *,
    allow_download: bool,
    progress: Progress,
) -> None:
    facts = resolved.facts
    downloads = f"`tfkd data {facts.name}` downloads it ({resolved.download}), " if resolved.download else ""
    given = f"`tfkd data {facts.name} --from PATH` takes the official files"
    hint = f"{downloads}{given}; --dataset digits needs no network."
    if not allow_download:
        missing = f"not in {execution.data_dir}" if execution.data_dir else "not on this machine"
        what = missing if damaged is None else f"damaged in the cache ({damaged})"
        raise RequestError(f"{facts.label} is {what}.", expected=facts.source + ".", hint=hint)
    progress(f"downloading {facts.label}", 0.0)
    try:
        reader_of(facts).fetch(facts, execution.cache_path / "downloads")
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong md5 a RuntimeError
        reason = str(getattr(error, "reason", error)).rstrip(".")  # not "<urlopen error …>"
        raise RequestError(
            f"{facts.label} could not be downloaded: {reason}.",
            expected=f"a network, or {facts.source}.",
            hint=hint,
        ) from error


def _decode(
    facts: DataSet,
    path: Path,
    execution: Execution,
    decode: Callable[..., DataSet],
    *,
    progress: Progress,
    anew: bool,
) -> DataSet | None:
    """Decode what is at `path` into the cache; the facts that `decode` gave, None where it was there."""

    def fill(draft: caches.Draft) -> DataSet:
        draft.origin = _text(path) or ""
        draft.memory = caches.memory() / 4 if execution.memory_gb is None else execution.memory_gb * 1e9
        decoded = decode(path, facts, draft, progress=progress)
        draft.found = tuple(each for each in decoded.notes if each not in facts.notes)
        return decoded

    return caches.build(execution.cache_path, facts.name, fill, progress=progress, anew=anew)
