"""Values from outside, checked against types by msgspec: parsed JSON and TOML, and texts that were typed.

Ranges stand in the annotations, beside the fields: `epochs: Annotated[int, Meta(ge=1)]`. Numbers are finite
in values that are typed and in all fields of dataclasses, whatever their ranges. A value that does not fit is
a RequestError that names the key, the value and what was expected; readers of files add the file.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, NotRequired, TypedDict, get_type_hints

import msgspec
from msgspec import Meta as Meta

from tfkd_cli.errors import InvalidValueError, RequestError

LARGEST = sys.float_info.max

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # exact in JSON readers that know only doubles
Positive = Annotated[int, Meta(ge=1, lt=1 << 53)]
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]  # 1e999 is read as infinity
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
_TEXTS = {
    r"\A(auto|cpu|mps|cuda(:\d{1,4})?)\Z": "auto, cpu, cuda, cuda:1 or mps",
    r"\A[^\0]{1,500}\Z": "a name of 1 to 500 characters",
    r"\A[0-9a-f]{64}\Z": "a sha256 of 64 hex digits",
    r"\A[0-9a-f]{8}([0-9a-f]{56})?\Z": "a sha256 of 64 hex digits, or the first 8 of one",
    r"\A[A-Za-z0-9][A-Za-z0-9.@_+-]{0,239}\Z": "a plain file name",  # no separators, no `..`, not hidden
}
DEVICE, NAME, DIGEST, WEIGHTS_DIGEST, FILE_NAME = _TEXTS
PUBLISHED_DIGITS = 8  # of a sha256 in the names of torchvision's weights: resnet18-f37072fd.pth
Device = Annotated[str, Meta(pattern=DEVICE)]
Name = Annotated[str, Meta(pattern=NAME)]
Digest = Annotated[str, Meta(pattern=DIGEST)]
WeightsDigest = Annotated[str, Meta(pattern=WEIGHTS_DIGEST)]
FileName = Annotated[str, Meta(pattern=FILE_NAME)]

_WORDS = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table of names and values",
    "null": "nothing",
}


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A JSON or TOML table in which every key is known."""


def convert(value: Any, kind: Any, *, of: str = "", lax: bool = False, hint: str = "") -> Any:
    """`value` as a `kind` (a type or an annotation); RequestError for anything else.

    `of` is the key under which the value was found. `lax`: numbers and booleans may be texts.
    """
    is_domain = is_dataclass(kind)
    shape = _shape(kind) if is_domain else kind
    try:
        if is_domain and isinstance(value, dict):
            for name in value.keys() - shape.__annotations__.keys():
                raise msgspec.ValidationError(f"Object contains unknown field `{name}`")
        found = msgspec.convert(value, shape, strict=not lax)
        if path := _not_finite(found):
            raise msgspec.ValidationError(f"Expected `float` - at `{path}`")
    except (msgspec.ValidationError, RecursionError) as error:
        raise _misfit(str(error), value, shape, of=of, hint=hint) from None
    # By its constructor: msgspec leaves defaults out of the `vars` of a dataclass.
    return kind(**found) if is_domain else found


def _not_finite(value: Any, path: str = "$") -> str:
    """The path, as msgspec writes it, of the first number that is infinite or NaN; empty where none is."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else path
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{name}", each) for name, each in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    return next(filter(None, (_not_finite(each, place) for place, each in inner)), "")


def types_of(kind: Any) -> dict[str, Any]:
    """Field of a dataclass → its annotation, with its range."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind)}


def check(owner: Any, *, of: str, hint: str = "") -> None:
    """InvalidValueError unless the fields of a dataclass fit their annotations; for its `__post_init__`."""
    # NumPy's numbers are as good as Python's.
    values = {name: value.item() if hasattr(value, "item") else value for name, value in vars(owner).items()}
    convert(values, _shape(owner.__class__), of=of, hint=hint)


@cache
def _shape(kind: Any) -> Any:
    """The fields of a dataclass as a TypedDict."""
    needed = {each.name for each in fields(kind) if each.default is each.default_factory is MISSING}
    types = {name: each if name in needed else NotRequired[each] for name, each in types_of(kind).items()}
    make: Any = TypedDict
    return make(kind.__name__, types)


def _misfit(text: str, value: Any, kind: Any, *, of: str, hint: str) -> RequestError:
    """msgspec's "Expected `int`, got `str` - at `$.recipe.epochs`" in the words of this project."""
    from msgspec.inspect import type_info

    found = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", text, re.DOTALL)
    problem, path = (found[1], found[2] or "") if found else (text, "")
    place, known = type_info(kind), value
    for step in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        place, known = _step(place, known, *step)
    key = (of + path).lstrip(".")
    names = ", ".join(each.name for each in getattr(place, "fields", ()))
    if field := re.fullmatch(r"Object missing required field `(.*)`", problem):
        return InvalidValueError(
            f"{f'{key}.{field[1]}'.lstrip('.')} is missing.", expected=f"The keys: {names}.", hint=hint
        )
    if field := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
        where = f" in {key}" if key else ""
        return InvalidValueError(f'unknown key "{field[1]}"{where}.', expected=f"Known: {names}.", hint=hint)
    shown = f"{known!r}"[:60] if known is not None else "nothing"
    return InvalidValueError(
        f"{key or 'the whole'} is {shown}.", expected=f"{_expected(problem, place)}.", hint=hint
    )


def _step(place: Any, value: Any, field: str, index: str) -> tuple[Any, Any]:
    """One step of msgspec's path, in the type and in the value (None where the path does not say which)."""
    options = [each for each in getattr(place, "types", (place,)) if not hasattr(each, "values")]
    if field:
        inner = [
            each.type for option in options for each in getattr(option, "fields", ()) if each.name == field
        ]
        return (inner or [None])[0], value.get(field) if isinstance(value, dict) else None
    inner = [getattr(option, "item_type", None) or getattr(option, "value_type", None) for option in options]
    known = isinstance(value, list | tuple) and index.isdigit() and int(index) < len(value)
    return (inner or [None])[0], value[int(index)] if known else None


def _expected(problem: str, place: Any) -> str:
    if problem.startswith("Invalid enum value"):
        options = [
            value for each in getattr(place, "types", (place,)) for value in getattr(each, "values", ())
        ]
        return "one of " + ", ".join(map(str, options))
    wanted = re.match(r"Expected (.*?)(?:, got .*)?\Z", problem, re.DOTALL)
    if wanted is None:
        return _WORDS["float"] if "out of range" in problem else problem
    for pattern, words in _TEXTS.items():
        if repr(pattern) in problem:
            return words
    kind, low, high = (
        wanted[1].partition("`")[2].partition("`")[0],
        *(getattr(place, n, None) for n in ("ge", "le")),
    )
    if low is not None and high not in (None, LARGEST):
        return f"{_WORDS.get(kind, kind)} from {low} to {high}"
    in_words = re.sub(
        r"`([a-z |]+)`",
        lambda kinds: " or ".join(_WORDS.get(each, each) for each in kinds[1].split(" | ")),
        wanted[1],
    )
    return in_words.removesuffix(f" <= {LARGEST}")
