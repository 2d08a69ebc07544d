"""One small table whose every number can be worked by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from paper_tables.compare import Comparison, compare
from paper_tables.measured import Measured, SeedValue
from paper_tables.reader import Paper
from paper_tables.spec import Cell, Column, Published, Row, Setting, Table
from paper_tables.strict import Names
from tfkd_cli.data import DATASETS
from tfkd_cli.errors import canonical
from tfkd_cli.methods import METHODS
from tfkd_cli.models import NETWORKS
from tfkd_cli.reproduction.overrides import LOSS_FIELDS, RECIPE_FIELDS

# By seed. baseline: mean 71, variance 1; kd: mean 74, variance 1, over the baseline 4 2 3; lsr: mean 70,
# variance 3, over the baseline -1 -2 0.
RUNS: Mapping[str, tuple[float, ...]] = {
    "baseline": (70.0, 71.0, 72.0),
    "kd": (74.0, 73.0, 75.0),
    "lsr": (69.0, 69.0, 72.0),
}
PUBLISHED = {
    "baseline": Published(mean=71.5),
    "kd": Published(mean=73.0, std=0.2, gain=2.5, runs=3),
    "lsr": Published(mean=80.0, gain=4.0),
}


def setting(method: str, *, dataset: str = "cifar100", student: str = "mobilenetv2") -> Setting:
    return Setting(
        dataset=dataset, student=student, method=method, teacher="resnet18" if method == "kd" else None
    )


def measured(
    *values: float, name: str = "run", wanted: int = 3, lower: float = 0.5, teacher: str = ""
) -> Measured:
    """Runs with the seeds 0, 1, …; each ends `lower` points below its best epoch."""
    runs = (
        SeedValue(
            seed=seed,
            best=value,
            last=value - lower,
            run=f"{name}-s{seed}",
            teacher=teacher.format(seed=seed),
            code="1d02437",
        )
        for seed, value in enumerate(values)
    )
    return Measured(values=tuple(runs), wanted=wanted)


@pytest.fixture
def table() -> Table:
    cells = tuple(
        Cell(row=0, column=method, setting=setting(method), published=published)
        for method, published in PUBLISHED.items()
    )
    return Table(
        name="table0",
        title="Table 0: one student",
        kind="paper",
        heads=("model",),
        columns=tuple(Column(name=method, label=method) for method in PUBLISHED),
        rows=(Row(labels=("MobileNetV2",), cells=cells),),
    )


@pytest.fixture
def runs() -> dict[Setting, Measured]:
    taught = {"kd": "resnet18-s0"}
    return {
        setting(method): measured(*values, name=method, teacher=taught.get(method, ""))
        for method, values in RUNS.items()
    }


@pytest.fixture
def comparison(table: Table, runs: dict[Setting, Measured]) -> Comparison:
    return compare(table, runs)


@pytest.fixture
def make_setting() -> Callable[..., Setting]:
    return setting


@pytest.fixture
def make_measured() -> Callable[..., Measured]:
    return measured


@pytest.fixture(scope="session")
def names() -> Names:
    """The names that the shipped TOML may use, whatever else tfkd knows."""
    return Names(
        network=lambda name: (
            name if name.startswith("torchvision:") else canonical(name, NETWORKS, kind="network")
        ),
        dataset=lambda name: canonical(name, DATASETS, kind="dataset"),
        method=lambda name: canonical(name, METHODS, kind="method"),
        loss_fields=LOSS_FIELDS,
        recipe_fields=RECIPE_FIELDS,
    )


@pytest.fixture(scope="session")
def paper(names: Names) -> Paper:
    """The shipped tables, figures and claims."""
    return Paper(names)
