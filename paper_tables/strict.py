"""Strict reading of the TOML files: msgspec checks keys and types, and `Names` what the values name."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from paper_tables.spec import PaperTablesError, Values

Text = Annotated[str, Meta(pattern=r"\S")]  # not empty
Plain = bool | int | float | str | tuple[int, ...]
Seeds = Annotated[int, Meta(ge=1, le=1000)]
Epoch = Annotated[int, Meta(ge=1, le=200)]  # of the paper's 200
Percent = Annotated[float, Meta(ge=1, le=100)]  # chance on 100 classes is 1
T = TypeVar("T")


class Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A TOML table in which every key is known."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What `tfkd_cli` knows, handed in: each function gives the canonical name, or raises.

    `loss_fields` and `recipe_fields` are the names a TOML may use under `loss` and `recipe`.
    """

    network: Callable[[str], str]
    dataset: Callable[[str], str]
    method: Callable[[str], str]
    loss_fields: Collection[str]
    recipe_fields: Collection[str]
    _known: dict[tuple[str, str], str] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, kind: str, name: str, *, where: str) -> str:
        """The canonical name of a network, dataset or method; PaperTablesError naming the place."""
        if (kind, name) not in self._known:
            try:
                self._known[kind, name] = getattr(self, kind)(name)
            except Exception as error:
                if not hasattr(error, "what") and not isinstance(error, LookupError | ValueError):
                    raise  # an error in the program, not in the file
                expected, hint = getattr(error, "expected", ""), getattr(error, "hint", "")
                what = getattr(error, "what", f'unknown {kind} "{name}".')
                raise PaperTablesError(f"{where}: {what}", expected=expected, hint=hint) from error
        return self._known[kind, name]

    def values(self, kind: str, given: Mapping[str, Any], *, where: str) -> Values:
        """The values given for fields of a `loss` or a `recipe`, sorted by name."""
        known = self.loss_fields if kind == "loss" else self.recipe_fields
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise PaperTablesError(f'{where}, {kind}, key "{name}": {value} is not finite.')
            if name not in known:
                raise PaperTablesError(
                    f'{where}, {kind}: unknown key "{name}".',
                    expected=f"Known keys: {', '.join(sorted(known))}.",
                    hint=near(name, known),
                )
        return tuple(sorted(given.items()))


def read_toml(path: Path, kind: type[T]) -> T:
    """The TOML file as a `kind`; PaperTablesError with the file and the place in it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PaperTablesError(
            f"{path.name}: cannot be read: {error}", expected="Expected a TOML file.", hint=str(path)
        ) from error
    return parse(data, kind, where=path.name)


def parse(data: Any, kind: type[T], *, where: str) -> T:
    """Parsed TOML as a `kind`; PaperTablesError with msgspec's own words, places counted from 1."""
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        found = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", str(error), re.DOTALL)
        text, path = found.groups("") if found else (str(error), "")
        place = re.sub(r"\[(\d+)\]", lambda at: f" {int(at[1]) + 1}", path.replace("[...]", ""))
        place = place.replace(".", ", ")
        raise PaperTablesError(f"{where}{place}: {text}.", hint="see paper_tables/README.md.") from error


def shared(entry: Entry, kind: type[Any]) -> dict[str, Any]:
    """The values of a TOML entry that the dataclass `kind` has under the same names."""
    return {f.name: getattr(entry, f.name) for f in fields(kind) if hasattr(entry, f.name)}


def near(name: str, known: Iterable[str]) -> str:
    """`did you mean "…"?`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'did you mean "{found[0]}"?' if found else ""
