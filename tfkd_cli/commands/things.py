"""`tfkd list` and `tfkd data`: what there is, and data sets made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from paper_tables.hyperparameters import lookup
from paper_tables.spec import Setting
from tfkd_cli import console, data, models, progress
from tfkd_cli.commands import session
from tfkd_cli.errors import canonical
from tfkd_cli.methods import all_methods
from tfkd_cli.options import FolderOptions, JsonOption, StoreOptions, completing
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.spec import Recipe

DataName = Annotated[
    str,
    typer.Argument(
        help="A data set (`tfkd list datasets`).", metavar="DATASET",
        autocompletion=completing(data.all_datasets),
    ),
]  # fmt: skip
Rows = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def list_things(
    what: Annotated[
        str,
        typer.Argument(
            help="methods, models, datasets, tables, figures or clusters.",
            metavar="WHAT",
            autocompletion=completing(lambda: LISTS),
        ),
    ],
    output: JsonOption,
) -> int:
    """List the methods, models, data sets, tables, figures or clusters that there are.

    Example: tfkd list models
    """
    heads, rows = LISTS[canonical(what, LISTS, kind="list")]()
    if output.json:
        names = [head.replace(" ", "_") for head in heads]
        console.print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        shown = [[f"{each:,}" if isinstance(each, int) else each for each in row] for row in rows]
        console.show(console.simple_table(heads, shown))
        if canonical(what, LISTS, kind="list") == "methods":
            console.show("recipe: " + ", ".join(f.name for f in fields(Recipe)))
    return 0


def _methods() -> Rows:
    rows: list[tuple[Any, ...]] = [
        (m.name, m.label, m.does, ", ".join(f.name for f in fields(m.loss))) for m in all_methods().values()
    ]
    rows.append(("python:MODULE:CLASS", "", "", "your own: a class derived from tfkd_cli.methods.Loss"))
    return ("method", "in the paper", "learns from", "loss fields"), rows


def _models() -> Rows:
    rows: list[tuple[Any, ...]] = [
        (
            each.name,
            each.label,
            each.parameters or 0,
            each.multiply_adds or 0,
            each.note or each.source,
        )
        for each in models.NETWORKS.values()
    ]
    rows.append(("torchvision:NAME", "", "", "", "any of its classifiers; with :pretrained its weights"))
    rows.append(("timm:NAME", "", "", "", "the same from timm (pip install 'tfkd[timm]')"))
    rows.append(
        ("python:MODULE:FACTORY", "", "", "", "your own: factory(num_classes=…) gives a torch module")
    )
    return ("model", "in the paper", "parameters", "multiply-adds", "source"), rows


def _datasets() -> Rows:
    rows: list[tuple[Any, ...]] = [
        (
            name,
            d.label,
            d.classes,
            f"{d.size}×{d.size}",
            d.train_images,
            d.test_images,
            d.augmentation or _augmentation(name),
        )
        for name, d in data.all_datasets().items()
    ]
    rows.append(
        (
            "folder:PATH",
            "own images (folder96: at 96 px, folder.split1: split anew)",
            "",
            "",
            "",
            "",
            _augmentation("folder"),
        )
    )
    rows.append(("torchvision:NAME", "its classification sets", "", "", "", "", _augmentation("torchvision")))
    rows.append(("python:MODULE:NAME", "your own: a tfkd_cli.data.DataSet", "", "", "", "", ""))
    return ("data set", "label", "classes", "pixels", "training", "test", "augmentation"), rows


def _augmentation(dataset: str) -> str:
    """The augmentation of a network that hyperparameters.toml does not single out."""
    found = lookup(Setting(dataset=dataset, student="", method="baseline"), form="released")
    named = found.recipe.get("augment")
    return str(named.value) if named else Recipe().augment


def _tables() -> Rows:
    rows = [
        (
            t.name,
            t.title,
            t.kind,
            len(list(t.cells())),
            ", ".join(sorted({c.setting.dataset for c in t.cells()})),
        )
        for t in paper().tables.values()
    ]
    return ("table", "title", "kind", "cells", "data"), rows


def _figures() -> Rows:
    return ("figure", "title", "kind"), [(f.name, f.title, f.kind) for f in paper().figures.values()]


def _clusters() -> Rows:
    from tfkd_cli.backends.slurm import profile

    rows = [(each.name, each.description, str(each.path)) for each in profile.clusters()]
    return ("cluster", "what it is", "profile"), [("local", "this machine", ""), *rows]


LISTS: Mapping[str, Callable[[], Rows]] = {
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
    "tables": _tables,
    "figures": _figures,
    "clusters": _clusters,
}


def fetch_data(
    name: DataName,
    store: StoreOptions,
    folder: FolderOptions,
    output: JsonOption,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="The official files, as a folder or an archive that you have.", metavar="PATH"
        ),
    ] = None,
) -> int:
    """Fetch a data set and decode it into the cache, once for all runs on this machine.

    Example: tfkd data tiny-imagenet --from tiny-imagenet-200.zip
    """
    made = data.prepare(
        name,
        execution=session.execution(store, folder=folder),
        source=source,
        allow_download=source is None,
        progress=progress.steps(),
    )
    facts = made.facts
    if output.json:
        console.print_json({**facts.to_json(), "ready": made.ready})
    else:
        whole = f" ({facts.caveat})" if facts.caveat else ""
        console.show(
            f"{facts.name}{whole}: {facts.train_images:,} training and {facts.test_images:,} test images, "
            f"{facts.classes} classes, {facts.size}×{facts.size} pixels; ready."
        )
        for note in facts.notes:
            console.say(f"Note: {note}")
    return 0
