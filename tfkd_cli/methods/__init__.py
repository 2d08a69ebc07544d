"""The losses of the paper, one frozen dataclass each, and the methods that use them.

A new method is a class here, as `loss.Loss` describes, and its line in `METHODS`; or a class outside tfkd,
used as `--method python:module:Class` or registered under the entry point group `tfkd.methods`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from typing import Any, Literal

from tfkd_cli import own_code, schema
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.methods.distillation import Distillation
from tfkd_cli.methods.label_smoothing import CrossEntropy, LabelSmoothing
from tfkd_cli.methods.loss import (
    LATE,
    Factor,
    Form,
    Loss,
    LossParts,
    Share,
    Temperature,
    cross_entropy,
    kl_divergence,
    parameter,
)
from tfkd_cli.methods.recorded import DECIDING, describe, hashable, stand_in
from tfkd_cli.methods.tf_reg import TfReg
from tfkd_cli.schema import Meta

__all__ = [
    "DECIDING",
    "LATE",
    "LOSSES",
    "METHODS",
    "CrossEntropy",
    "Distillation",
    "Factor",
    "Form",
    "LabelSmoothing",
    "Loss",
    "LossParts",
    "Meta",
    "Method",
    "Share",
    "Temperature",
    "TfReg",
    "all_methods",
    "called",
    "cross_entropy",
    "describe",
    "field_types",
    "imported",
    "kl_divergence",
    "loss_from",
    "loss_type",
    "method",
    "parameter",
    "remember",
]

GROUP = "tfkd.methods"
_remembered: dict[str, tuple[Mapping[str, Any], RequestError]] = {}
EXPECTED = "a frozen dataclass derived from tfkd_cli.methods.Loss with a name, a label and what it does."


@dataclass(frozen=True, kw_only=True)
class Method:
    """A name that sets a loss and chooses a teacher; only the loss and the teacher enter a run's key."""

    name: str
    label: str
    loss: type[Loss]
    teacher: Literal["none", "given", "self"]
    does: str


def _of(loss: type[Loss], name: str = "") -> Method:
    """The method that has no teacher, or any, with this loss."""
    teacher: Literal["none", "given"] = "given" if loss.needs_teacher else "none"
    return Method(name=name or loss.name, label=loss.label, loss=loss, teacher=teacher, does=loss.does)


KD = _of(Distillation)
METHODS: Mapping[str, Method] = {
    each.name: each
    for each in (
        _of(CrossEntropy),
        _of(LabelSmoothing),
        KD,
        replace(KD, name="re-kd", label="Re-KD", does="a smaller network teaches a larger one"),
        replace(KD, name="de-kd", label="De-KD", does="a badly trained teacher (a snapshot)"),
        replace(
            KD,
            name="tf-self",
            label="Tf-KD_self",
            teacher="self",
            does="the student's own baseline teaches it",
        ),
        _of(TfReg),
    )
}
"""The paper's methods."""

LOSSES: Mapping[str, type[Loss]] = {each.loss.kind: each.loss for each in METHODS.values()}
"""Their losses, by the name that spec.json has for them."""


def all_methods() -> dict[str, Method]:
    """The paper's methods and those that installed packages register; the latter are imported."""
    return {name: method(name) for name in (*METHODS, *own_code.registered(GROUP))}


def remember(
    described: Mapping[str, Mapping[str, Any]], *, refused: RequestError | None = None
) -> dict[str, str]:
    """Name of each method that a record describes (`recorded.describe`) → its name for `method`.

    That is another one, `NAME@<12 hex>`, where the class is gone or has changed, or has `refused` the values
    of the record.
    """
    found = {}
    for name, each in described.items():
        missing = _departure(each) or (refused and _changed(str(each.get("kind")), refused.what))
        found[name] = f"{name}@{hashlib.sha256(repr(each).encode()).hexdigest()[:12]}" if missing else name
        if missing:
            _remembered[found[name]] = each, missing
    return found


def method(name: str) -> Method:
    """The method called `name`; RequestError with the nearest known name.

    It may be the paper's, one that an installed package registers, or `python:module:Class`. One that is
    remembered from a record has a loss without a value (`Loss.missing` says why).
    """
    return _of(stand_in(*_remembered[name]), name) if name in _remembered else imported(name)


def called(name: str) -> str:
    """What columns and file names call a method: its name, outside tfkd the one that its class says."""
    return name if name in METHODS else method(name).loss.name


@cache
def imported(name: str) -> Method:
    """The method called `name`, its class imported; RequestError where that fails."""
    if name in METHODS:
        return METHODS[name]
    if name.startswith(own_code.PREFIX):
        loss = loss_type(name)
        return _of(loss, loss.kind)
    others = own_code.registered(GROUP)
    known = canonical(
        name, [*METHODS, *others], kind="method", hint="a method of your own is python:module:Class."
    )
    return METHODS.get(known) or _of(loss_type(own_code.of_entry_point(others[known])), known)


@cache
def loss_type(kind: str) -> type[Loss]:
    """The loss that spec.json calls `kind`; RequestError where it is not, or no longer, to be had."""
    if kind in LOSSES:
        return LOSSES[kind]
    found = own_code.load(kind, expected=EXPECTED)
    if not (isinstance(found, type) and issubclass(found, Loss) and is_dataclass(found)):
        raise RequestError(f'"{kind}" is no loss.', expected=EXPECTED, hint="docs/library.md shows one.")
    missing = [name for name in ("name", "label", "does") if not isinstance(getattr(found, name, None), str)]
    if missing:
        raise RequestError(f'"{kind}" does not say its {" and ".join(missing)}.', expected=EXPECTED)
    return found


def loss_from(
    data: Mapping[str, Any], described: Mapping[str, Any] | None, *, taught: bool, hint: str
) -> Loss:
    """The loss that a record holds; RequestError where it holds none.

    One outside tfkd whose class is not to be had, or has changed, has no value; then `described` says what it
    is. Records of an earlier tfkd lack that: the values and whether a teacher `taught` must do.
    """
    kind = schema.convert(data.get("kind"), schema.Name, of="loss.kind", hint=hint)
    values = {name: hashable(value) for name, value in data.items() if name != "kind"}
    loss: Loss
    is_own = own_code.is_own(kind)
    missing = _departure({**(described or {}), "kind": kind}) if is_own else None
    if missing is None:
        try:
            loss = schema.convert(values, loss_type(kind), of="loss", hint=hint)
        except RequestError as refused:
            if not is_own:
                raise
            missing = _changed(kind, refused.what)
        else:
            return loss
    name = kind.rpartition(":")[2]
    own = described or {"name": name, "label": name, "needs_teacher": taught, "fields": values}
    loss = schema.convert(values, stand_in({**own, "kind": kind}, missing), of="loss", hint=hint)
    return loss


def _departure(described: Mapping[str, Any]) -> RequestError | None:
    """Why the class is not what a record describes: it is gone, or has changed; None where it is."""
    kind = str(described.get("kind"))
    try:
        now = describe(loss_type(kind))
    except RequestError as missing:
        return missing
    changed = [name for name in DECIDING if name in described and now[name] != described[name]]
    return _changed(kind, f"its {', '.join(changed)}") if changed else None


def _changed(kind: str, how: str) -> RequestError:
    return RequestError(
        f'"{kind}" has changed since: {how.removesuffix(".")}.',
        expected="the class that the runs were made with.",
        hint="give the command again for the class as it is now; another name keeps the two apart.",
    )


def field_types(*losses: type[Loss]) -> dict[str, Any]:
    """Field → its type, of the losses of the paper and of these."""
    found = (*LOSSES.values(), *losses)
    return {name: type_ for loss in found for name, type_ in schema.types_of(loss).items()}
