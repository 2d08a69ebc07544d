"""`tfkd explain`: what a loss really is, in words a reader of the paper understands."""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any

import typer

from paper_tables.spec import PaperTablesError, Setting
from tfkd_cli import console
from tfkd_cli.commands import session
from tfkd_cli.errors import RequestError, fold
from tfkd_cli.execution import Execution
from tfkd_cli.methods import all_methods
from tfkd_cli.methods import method as find_method
from tfkd_cli.models import NETWORKS
from tfkd_cli.options import (
    Dataset,
    FolderOptions,
    JsonOption,
    Methods,
    RunOptions,
    StoreOptions,
    Student,
    Teachers,
    completing,
)
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.explain import explain
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="A table, a network and a method: table9 resnet18 tf-reg.", metavar="WORD...",
        autocompletion=completing(lambda: [*paper().tables], lambda: [*all_methods(), *NETWORKS]),
    ),
]  # fmt: skip


def explain_setting(
    store: StoreOptions,
    how: RunOptions,
    folder: FolderOptions,
    output: JsonOption,
    words: Words = None,
    student: Student = "",
    method: Methods = "",
    teacher: Teachers = None,
    dataset: Dataset = "cifar100",
) -> int:
    """Explain a setting's loss: its weights, its scale, and the label smoothing that it equals.

    Example: tfkd explain table9 resnet18 tf-reg

    Example: tfkd explain --student mobilenetv2 --method tf-self
    """
    execution = session.execution(store, folder=folder)
    bare = session.bare_request(how, "1", session.split(method))
    if words:
        request = requests.for_names([words[0]], bare, execution=execution)
        settings = _meant(request, words)
    elif student and method:
        request = _grid(dataset, student, method, teacher, bare=bare, execution=execution)
        asked = request.axes.methods if request.axes else ()  # a grid has the baseline, named or not
        settings = [each for each in request.tables[0].settings() if each.method in asked]
    else:
        raise RequestError(
            "explain needs to know what.",
            expected="a table, a network and a method; or --student and --method.",
            hint="tfkd explain table9 resnet18 tf-reg",
        )
    found = {each: explain(request, each, own_epochs=not words) for each in settings}
    if output.json:
        console.print_json([*found.values()])
    else:
        for setting, explained in found.items():
            _print(explained, setting)
    return 0


def _grid(
    dataset: str, student: str, method: str, teacher: str | None, *, bare: Request, execution: Execution
) -> Request:
    """The request that these options of `tfkd run` make."""
    students, methods, teachers = map(session.split, (student, method, teacher))
    axes = requests.axes_of(dataset=dataset, students=students, methods=methods, teachers=teachers)
    return requests.for_axes(axes, bare, execution=execution)


def _meant(request: Request, words: list[str]) -> list[Setting]:
    """The settings of a table that all the words fit (dataset, student, teacher, method), in its order."""
    settings = dict.fromkeys(setting for item in request.items for setting in item.settings())
    if not settings:
        raise PaperTablesError(
            f"{words[0]} rests on no run, so there is no loss to explain.",
            expected="a table, or a figure of measured runs.",
            hint="tfkd list tables",
        )
    wanted = [fold(word) for word in words[1:]]
    found = [each for each in settings if all(word in _names(each) for word in wanted)]
    # A network that is named alone is the student, where there is such a cell.
    found = [each for each in found if fold(each.student) in wanted] or found
    if not found:
        known = sorted({f"{each.student} {each.method}" for each in settings})
        asked = " ".join(words[1:])
        near = difflib.get_close_matches(asked, known, n=1, cutoff=0.0)
        raise PaperTablesError(
            f"no cell of {words[0]} is {asked}.",
            expected="Known: " + "; ".join(known),
            hint=f"tfkd explain {words[0]} {near[0]}",
        )
    return found


def _names(setting: Setting) -> set[str]:
    given = (
        setting.dataset,
        setting.student,
        setting.teacher,
        find_method(setting.method).name,
        setting.form,
    )
    return {fold(each) for each in given if each}


def _print(made: dict[str, Any], setting: Setting) -> None:
    taught = f", taught by {setting.teacher}" if setting.teacher else ""
    epoch = f" (epoch {setting.teacher_epoch} of 200)" if setting.teacher_epoch else ""
    console.show(
        f"{find_method(setting.method).label} of {setting.student}{taught}{epoch} on {setting.dataset}"
    )
    forms, variants = made["forms"], made["variants"]
    rows = [_row(name + " (chosen)" * (name == made["form"]), each) for name, each in forms.items()]
    rows += [_row(each["suite"], each["weights"]) for each in variants if each["weights"]]
    console.show(console.simple_table(("form", "weights", "loss scale", "equals LSR with ε"), rows))
    console.show("Divergences are summed over classes; q is the label, u uniform, K the number of classes.")
    for name, each in forms.items():
        console.show(f"{name}: {each['equation'] or 'the class does not say its equation'}")
        if each["remark"]:
            console.show(f"  In words: {_in_words(each)}.")
    for text in made["differences"]:
        console.show(f"Difference: {text}.")
    for each in variants:
        console.show(f"{each['suite']}: {each['arithmetic']}. {each['says']}")
    _print_values(made["values"])


def _in_words(each: dict[str, Any]) -> str:
    if not each["epsilon"]:
        return str(each["remark"])
    times = "" if math.isclose(each["scale"] or 1, 1) else f"{each['scale']:.4g} times "
    return f"{times}label smoothing with ε = {each['epsilon']:.3f}; {each['remark']}"


def _print_values(values: list[dict[str, Any]]) -> None:
    """Every value with where it comes from; equal notes once, below."""
    notes = list(dict.fromkeys(each["note"] for each in values if each["note"]))
    rows = [
        (each["field"], each["value"], each["from"], f"[{notes.index(note) + 1}]" if note else "")
        for each in values
        for note in [each["note"]]
    ]
    console.show(console.simple_table(("value", "is", "from", "note"), rows))
    for number, note in enumerate(notes, 1):
        console.show(f"[{number}] {note}")


def _row(name: str, each: dict[str, Any]) -> tuple[object, ...]:
    epsilon = "-" if each["epsilon"] is None else f"{each['epsilon']:.3f}"
    weights = ", ".join(f"{part} {weight:.4g}" for part, weight in each["weights"].items())
    scale = "-" if each["scale"] is None else f"{each['scale']:.4g}"
    return name, weights or "-", scale, epsilon
