"""What was typed → a Request: names made canonical, data sets resolved, nothing started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from msgspec import to_builtins

from paper_tables.spec import Figure, Table, TeacherSeeds
from tfkd_cli import data, grid, models, own_code, schema
from tfkd_cli.data import DataSet, ResolvedData
from tfkd_cli.errors import RequestError, TfkdError, fold
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes, Compared
from tfkd_cli.methods import DECIDING, Form, describe, imported, method, remember
from tfkd_cli.reproduction.overrides import Overrides
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request, Scale
from tfkd_cli.schema import Count, Digest
from tfkd_cli.spec import ForeignTeacher, canonical_json

SEEDS = 3  # of a table or figure that says nothing itself, as in the paper's tables with a spread
FINETUNE_PIXELS = 224  # what ImageNet networks were trained at
AS_THEY_ARE = ("seeds", "scale", "form", "fast", "teacher_seeds", "axes", "compared", "foreign_teacher")
"""Fields of a request that its record holds by the same names."""


Given = TypeVar("Given", Axes | None, Compared | None)


class _Described(schema.Record):
    """What the methods (by name) and data sets outside tfkd are, for where they cannot be imported."""

    methods: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]


class _Record(schema.Record):
    """A request as `Campaign.record` writes it."""

    names: list[str]
    seeds: tuple[Count, ...]
    scale: Scale
    form: Form
    fast: bool
    overrides: dict[str, Any]
    data: dict[str, str]
    teacher_seeds: TeacherSeeds = "one"  # earlier requests lack it
    axes: Axes | None = None
    foreign_teacher: ForeignTeacher | None = None
    compared: Compared | None = None
    keys: dict[str, list[Digest]] | None = None
    described: _Described | None = None
    schema: Literal[1] = 1
    command: str = ""
    id: str = ""


def for_names(names: Sequence[str], bare: Request, *, execution: Execution) -> Request:
    """`bare` with tables and figures of the paper (`all`, `fig2`, `controls-cifar100`, `demo` …)."""
    items = paper().expand(list(names))
    tables = tuple(each for each in items if isinstance(each, Table))
    figures = tuple(each for each in items if isinstance(each, Figure))
    return replace(bare, tables=tables, figures=figures, data=resolve_data(items, bare, execution))


def usual_seeds(names: Sequence[str]) -> str:
    """The seeds of these tables and figures where none are asked for, as `--seeds` takes them.

    As many as the tables themselves say, else SEEDS; RequestError where they say different numbers.
    """
    items = paper().expand(list(names))
    counts = {each.name: (each.seeds if isinstance(each, Table) else None) or SEEDS for each in items}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RequestError(
            f"these tables have different numbers of seeds: {said}.",
            expected="tables with the same number, or --seeds.",
            hint=f"--seeds {min(counts.values())}, or a command for each.",
        )
    return f"0-{max(counts.values(), default=SEEDS) - 1}"


def for_axes(
    axes: Axes, bare: Request, *, execution: Execution, foreign: ForeignTeacher | None = None
) -> Request:
    """`bare` with a grid of `tfkd run`."""
    data = resolve_data((grid.table(axes),), bare, execution)
    return replace(bare, tables=(_grid(axes, data),), axes=axes, foreign_teacher=foreign, data=data)


def _grid(axes: Axes, data: Mapping[str, ResolvedData]) -> Table:
    """The table of a grid; over a data set outside tfkd, its title says which content."""
    is_own = own_code.is_own(axes.dataset) and axes.dataset in data
    return grid.table(axes, dataset=data[axes.dataset].name if is_own else axes.dataset)


def axes_of(
    *,
    dataset: str,
    students: Sequence[str],
    methods: Sequence[str],
    teachers: Sequence[str] = (),
    teacher_epochs: Sequence[int] = (),
    finetune: bool = False,
    name: str = grid.UNNAMED,
) -> Axes:
    """Axes with canonical names; RequestError with the nearest known name for an unknown one."""
    for option, given in (("student", students), ("method", methods)):
        if not given:
            raise RequestError(
                f"--{option} names nothing.",
                expected=f"one name, or several: --{option} A,B.",
                hint="`tfkd list models` and `tfkd list methods` show all.",
            )
    found_students = tuple(dict.fromkeys(models.resolve(each) for each in students))
    found_teachers = tuple(dict.fromkeys(models.resolve(each) for each in teachers))
    pretrained = any(models.network(each).pretrained for each in (*found_students, *found_teachers))
    return Axes(
        name=name,
        dataset=data_name(dataset, finetune=finetune or pretrained),
        students=found_students,
        methods=tuple(dict.fromkeys(imported(each).name for each in methods)),
        teachers=found_teachers,
        teacher_epochs=tuple(teacher_epochs),
    )


def data_name(dataset: str, *, finetune: bool) -> str:
    """The data set as it is asked for: own images at 224 pixels where networks are finetuned.

    A size of the user's own, as in `folder64:PATH`, stands; built-in sets keep theirs.
    """
    kind, colon, rest = dataset.strip().partition(":")
    if not colon or kind == "python":
        return dataset if "@" in dataset else data.dataset(dataset).name
    built_in = [name for name in data.DATASETS if fold(name) == fold(rest)]
    if kind.lower() == "torchvision" and built_in:
        return built_in[0]
    return data.at_size(dataset, FINETUNE_PIXELS) if finetune else dataset


def resolve_data(
    items: Sequence[Table | Figure], bare: Request, execution: Execution
) -> dict[str, ResolvedData]:
    """Data set as a setting names it → what it resolves to at the scale of `bare`; nothing is fetched."""
    names = dict.fromkeys(setting.dataset for item in items for setting in item.settings())
    return {name: data.resolve(bare.data_at_scale(name), execution=execution) for name in names}


def to_json(request: Request) -> dict[str, Any]:
    """What `from_json` needs to ask the same again."""
    given = request.axes or request.compared
    names = {each: each.partition("@")[0] for each in given.methods} if given else {}
    plain = replace(request, axes=_renamed(request.axes, names), compared=_renamed(request.compared, names))
    return {
        "names": list(request.names),
        "overrides": request.overrides.to_json(),
        "data": {name: each.name for name, each in request.data.items()},
        **{name: to_builtins(getattr(plain, name)) for name in AS_THEY_ARE},
    }


def described(request: Request) -> dict[str, Any]:
    """What a request has from outside tfkd, as `_Described`; empty where there is nothing of that."""
    methods = _own_methods(request)
    facts = (each.facts for each in request.data.values())
    sets = {each.name: each.to_json() for each in facts if not each.module.startswith("tfkd_cli.")}
    return {"described": {"methods": methods, "data": sets}} if methods or sets else {}


def _own_methods(request: Request) -> dict[str, dict[str, Any]]:
    """Name → description of each method from outside tfkd."""
    given = request.axes or request.compared
    losses = {name: method(name).loss for name in (given.methods if given else ())}
    return {
        name.partition("@")[0]: describe(loss) for name, loss in losses.items() if own_code.is_own(loss.kind)
    }


def identity(request: Request) -> str:
    """What makes two requests one campaign: everything but the seeds, and what methods outside tfkd are."""
    whole = {name: value for name, value in to_json(request).items() if name != "seeds"}
    if methods := _own_methods(request):
        whole["methods"] = {name: [each[part] for part in DECIDING] for name, each in methods.items()}
    return canonical_json(whole).decode()


def from_json(stored: Mapping[str, Any], *, execution: Execution) -> Request:
    """The request that `to_json` kept, with its data sets as they were resolved then.

    That of a comparison has no table: which settings it has depends on its trials (see `tfkd_cli.compare`).
    """
    record = schema.convert(stored, _Record, hint="a newer tfkd may have written it.")
    own = record.described or _Described(methods={}, data={})
    if not own.methods:
        return _read(record, own, {}, execution)
    try:
        found = _read(record, own, remember(own.methods), execution)
        _ = found.specs  # the classes take the values of the record
    except RequestError as refused:
        return _read(record, own, remember(own.methods, refused=refused), execution)
    return found


def _read(record: _Record, own: _Described, names: Mapping[str, str], execution: Execution) -> Request:
    """The request of a record, its methods by these names."""
    axes, compared = _renamed(record.axes, names), _renamed(record.compared, names)
    items: list[Table | Figure] = []
    contents = {name: _as_recorded(each, own.data.get(each), execution) for name, each in record.data.items()}
    given = axes or compared
    losses = [method(name).loss for name in given.methods] if given else []
    if axes:
        items = [_grid(axes, contents)]
    elif not compared:
        items = list(paper().expand(record.names))
    return Request(
        tables=tuple(each for each in items if isinstance(each, Table)),
        figures=tuple(each for each in items if isinstance(each, Figure)),
        overrides=Overrides.from_json(record.overrides, losses=losses),
        data=contents,
        **{**{name: getattr(record, name) for name in AS_THEY_ARE}, "axes": axes, "compared": compared},
    )


def _renamed(given: Given, names: Mapping[str, str]) -> Given:
    """Axes or a comparison with other names of its methods."""
    return replace(given, methods=tuple(names.get(each, each) for each in given.methods)) if given else given


def _as_recorded(resolved: str, facts: Mapping[str, Any] | None, execution: Execution) -> ResolvedData:
    """The data set an earlier request resolved to; when its files are gone, its name is all that is known.

    `facts`: those of one outside tfkd, which the request holds.
    """
    try:
        found = data.recorded(resolved, execution=execution)
    except TfkdError:
        found = None
    if found is None or found.name != resolved:
        base = data.DATASETS.get(resolved.partition("@")[0], data.DATASETS["cifar100"])
        found = ResolvedData(facts=replace(base, name=resolved, full=False))
    return found if facts is None else replace(found, facts=DataSet.from_json(facts))
