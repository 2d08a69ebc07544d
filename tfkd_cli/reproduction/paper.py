"""The paper as data, read with the names of networks, data sets and methods that tfkd knows."""

from __future__ import annotations

from functools import cache

from paper_tables.reader import Paper
from paper_tables.strict import Names
from tfkd_cli import data, models
from tfkd_cli.methods import method
from tfkd_cli.reproduction.overrides import LOSS_FIELDS, RECIPE_FIELDS


@cache
def paper() -> Paper:
    """All tables, figures and claims, read and checked once."""
    names = Names(
        network=models.resolve,
        dataset=lambda name: data.dataset(name).name,
        method=lambda name: method(name).name,
        loss_fields=LOSS_FIELDS,
        recipe_fields=RECIPE_FIELDS,
    )
    return Paper(names)
