"""Strict access to a TOML table: every key is known, every value has its type, every refusal says where."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paper_tables.spec import PaperTablesError, Values

MISSING: Any = object()

Scalar = (str, bool, int, float)


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
                    raise  # a fault of ours, not of the file
                expected, hint = getattr(error, "expected", ""), getattr(error, "hint", "")
                what = getattr(error, "what", f'unknown {kind} "{name}".')
                raise PaperTablesError(f"{where}: {what}", expected=expected, hint=hint) from error
        return self._known[kind, name]


@dataclass(frozen=True)
class Entry:
    """A TOML table and where it stands: `table1.toml, row 3, cell "kd"`."""

    data: Mapping[str, Any]
    where: str

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def only(self, *known: str) -> Entry:
        """This entry, if it has no other keys than these."""
        for key in self.data:
            if key not in known:
                raise unknown_key(self.where, key, known)
        return self

    def error(self, key: str, what: str, *, expected: str = "", hint: str = "") -> PaperTablesError:
        """What is wrong with the value of `key`, with its place."""
        return PaperTablesError(f'{self.where}, key "{key}": {what}', expected=expected, hint=hint)

    def get(self, key: str, kinds: type | tuple[type, ...], default: Any = MISSING) -> Any:
        """The value of `key`, of one of these types (a bool is no number)."""
        if key not in self.data:
            if default is MISSING:
                present = ", ".join(sorted(self.data)) or "nothing"
                raise PaperTablesError(
                    f'{self.where}: the key "{key}" is missing.', expected=f"Found: {present}."
                )
            return default
        value = self.data[key]
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(each.__name__ for each in kinds)
            raise self.error(
                key, f"{value!r:.60} is a {type(value).__name__}.", expected=f"Expected {wanted}."
            )
        return value

    def text(self, key: str, default: Any = MISSING) -> Any:
        """A string that is not empty, on one line or more, without the margins of a TOML block."""
        value = self.get(key, str, default)
        if key in self.data and not value.strip():
            raise self.error(key, "is empty.", expected="Expected a text.")
        return value.strip() if isinstance(value, str) else value

    def number(self, key: str, *, low: float, high: float, default: Any = MISSING) -> Any:
        """A number between two bounds, both included."""
        value = self.get(key, (int, float), default)
        if key in self.data and not low <= value <= high:
            raise self.error(key, f"is {value}.", expected=f"Expected a number from {low:g} to {high:g}.")
        return value

    def whole(self, key: str, *, low: int, high: int, default: Any = MISSING) -> Any:
        """A whole number between two bounds, both included."""
        self.get(key, int, default)
        return self.number(key, low=low, high=high, default=default)

    def choice(self, key: str, allowed: Collection[str], default: Any = MISSING) -> Any:
        """One of a few words."""
        value = self.text(key, default)
        if key in self.data and value not in allowed:
            raise self.error(
                key, f'is "{value}".', expected=f"Known: {', '.join(allowed)}.", hint=near(value, allowed)
            )
        return value

    def texts(self, key: str, default: Any = MISSING) -> tuple[str, ...]:
        """A list of strings."""
        values = self.get(key, list, default)
        for value in values:
            if not isinstance(value, str):
                raise self.error(
                    key, f"{value!r:.60} is a {type(value).__name__}.", expected="Expected strings."
                )
        return tuple(values)

    def entry(self, key: str) -> Entry:
        """The table under `key`, empty where there is none."""
        return Entry(self.get(key, dict, {}), f"{self.where}, {key}")

    def entries(self, key: str, name: str | None = None, *, least: int = 1) -> tuple[Entry, ...]:
        """The list of tables `[[key]]`, each with its number from 1."""
        found = self.get(key, list, [] if least == 0 else MISSING)
        if len(found) < least:
            raise self.error(key, "is empty.", expected=f"Expected at least one [[{key}]].")
        for value in found:
            if not isinstance(value, dict):
                raise self.error(key, f"{value!r:.60} is no table.", expected=f"Expected [[{key}]].")
        return tuple(Entry(each, f"{self.where}, {name or key} {n}") for n, each in enumerate(found, 1))

    def values(self, key: str, known: Collection[str]) -> Values:
        """The named values under `key` (`loss` or `recipe`), sorted by name; finite numbers, words, lists."""
        if key not in self.data:
            return ()
        given = self.entry(key).only(*known)
        return tuple(sorted((name, _plain(given, name)) for name in given.data))

    def inside(self, place: str) -> Entry:
        """The same data, said to stand at a more exact place."""
        return replace(self, where=f"{self.where}, {place}")


def read_toml(path: Path) -> Entry:
    """The TOML file as an Entry named after the file."""
    try:
        text = path.read_text(encoding="utf-8")
        return Entry(tomllib.loads(text), path.name)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PaperTablesError(
            f"{path.name}: cannot be read: {error}", expected="Expected a TOML file.", hint=str(path)
        ) from error


def unknown_key(where: str, key: str, known: Iterable[str]) -> PaperTablesError:
    """The refusal of a key nobody reads."""
    names = sorted(known)
    return PaperTablesError(
        f'{where}: unknown key "{key}".', expected=f"Known keys: {', '.join(names)}.", hint=near(key, names)
    )


def near(name: str, known: Iterable[str]) -> str:
    """`did you mean "…"?`, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'did you mean "{found[0]}"?' if found else ""


def _plain(given: Entry, name: str) -> Any:
    value = given.data[name]
    if isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) for each in value
    ):
        return tuple(value)
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        raise given.error(
            name,
            f"{value!r:.60} is no plain value.",
            expected="Expected a finite number, a word, true or false.",
        )
    return value
