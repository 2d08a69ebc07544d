"""What records hold of a loss outside tfkd, so that they can be read where its class cannot be imported.

A run's record says what its loss is called and which values it has; a request's also the defaults and the
trials. Only the value of the loss needs the class.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, make_dataclass
from functools import cache
from typing import Any, NoReturn

import msgspec

from tfkd_cli import schema
from tfkd_cli.errors import RequestError
from tfkd_cli.methods.loss import Loss, parameter

log = logging.getLogger("tfkd")

DECIDING = ("name", "needs_teacher", "fields", "trials", "forms")
"""What of a description decides which runs there are, and their keys."""


class Description(schema.Record):
    """A loss outside tfkd in JSON."""

    kind: str
    name: str
    label: str
    needs_teacher: bool
    fields: dict[str, Any]  # → default
    signs: dict[str, str] = msgspec.field(default_factory=dict)
    trials: list[dict[str, Any]] = msgspec.field(default_factory=list)
    forms: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


def describe(loss: type[Loss]) -> dict[str, Any]:
    """The loss as `stand_in` takes it; of a stand-in, what it was made from."""
    described = vars(loss).get("_described") or Description(
        kind=loss.kind,
        name=loss.name,
        label=loss.label,
        needs_teacher=loss.needs_teacher,
        fields={each.name: _default(each) for each in fields(loss)},
        signs={each.name: sign for each in fields(loss) if (sign := each.metadata.get("sign"))},
        trials=[dict(each) for each in loss.trials],
        forms={form: dict(values) for form, values in loss.FORMS.items()},
    )
    found: dict[str, Any] = msgspec.to_builtins(described, enc_hook=float)  # NumPy's numbers
    return found


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def stand_in(described: Mapping[str, Any], missing: RequestError) -> type[Loss]:
    """A loss with these fields that has no value: calling it raises `missing`, which is also logged.

    RequestError where it is described as no loss could be.
    """
    found = schema.convert(dict(described), Description, of="loss")
    try:
        loss = _class(msgspec.json.encode(found))
    except (TypeError, ValueError) as error:  # no name of a field
        raise RequestError(f"the record of {found.kind} describes no loss: {error}.") from error
    if str(loss.missing) != str(missing):  # said once
        log.warning("%s Its runs are shown from their records. Hint: %s", missing.what, missing.hint)
    loss.missing = missing
    return loss


@cache
def _class(encoded: bytes) -> type[Loss]:
    found = msgspec.json.decode(encoded, type=Description)
    used = {name for values in (*found.trials, *found.forms.values()) for name in values}
    if bad := [name for name in found.fields if name.startswith("_") or hasattr(Loss, name)]:
        raise ValueError(f"{bad[0][:60]!r} is no name of a field")
    if unknown := sorted(used - found.fields.keys()):
        raise ValueError(f"it has no field {unknown[0][:60]!r}")
    named = [
        (name, Any, parameter("", default=hashable(default), sign=found.signs.get(name, "")))
        for name, default in found.fields.items()
    ]

    def call(self: Loss, *_: object, **__: object) -> NoReturn:
        assert self.missing is not None
        raise self.missing

    own = {"name": found.name, "label": found.label, "does": "", "needs_teacher": found.needs_teacher}
    forms = {
        form: {name: hashable(each) for name, each in values.items()} for form, values in found.forms.items()
    }
    own |= {"_described": found, "trials": found.trials, "FORMS": {**Loss.FORMS, **forms}, "__call__": call}
    loss: type[Loss] = make_dataclass(
        "Recorded", named, bases=(Loss,), namespace=own, frozen=True, kw_only=True
    )
    loss.kind = found.kind
    return loss


def hashable(value: Any) -> Any:
    """A JSON value as a loss has it, its lists as tuples; RequestError for what no field can hold."""
    if isinstance(value, dict) or (isinstance(value, int) and abs(value) >= 1 << 63):
        raise RequestError(
            f"{value!r:.60} is no value of a loss.", expected="numbers, texts and lists of them."
        )
    return tuple(map(hashable, value)) if isinstance(value, list) else value
