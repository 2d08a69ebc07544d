"""The columns of runs.csv and epochs.csv and what each means: the one source of both and of COLUMNS.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Column(NamedTuple):
    """A column: its name, its unit or the values it takes, what it means."""

    name: str
    unit: str
    meaning: str


IDENTITY = (
    Column(
        "run", "text", "folder of the run in `runs/`; its last 12 characters begin the run's key. Unique."
    ),
    Column("dataset", "text", "data set; `NAME@<12 hex>` is a content other than the official one"),
    Column("student", "text", "the network that was trained"),
    Column(
        "method",
        "baseline, lsr, kd, re-kd, de-kd, tf-self, tf-reg, scaled-ce",
        "derived from loss and teacher; a `kd` run that was asked for as `re-kd` (`de-kd`) only is called so",
    ),
    Column("form", "released, printed", "the loss as in the released code, or as in the paper's equation"),
    Column("teacher", "text", "the network that taught it; empty without one. `tf-self`: the student itself"),
    Column(
        "teacher_checkpoint",
        "best, last, a number",
        "which weights of the teacher's run taught; a number is an epoch, from 1. `file:<12 hex>`: weights "
        "from a file",
    ),
    Column("seed", "whole number", "of weights, batch order and augmentation"),
    Column(
        "scale",
        "paper, quick, demo, custom",
        "the recipe: the paper's; `--scale quick`; the demo's; or changed by `--set` and its shorthands",
    ),
    Column("fast", "true, false", "bf16 or one augmentation stream for all seeds (`--fast`, quick and demo)"),
)

OUTCOME = (
    Column(
        "status",
        "done, running, resumable, blocked, failed, damaged, todo",
        "`resumable`: stopped, goes on where it was; `blocked`: its teacher failed; `damaged`: left out of "
        "all tables",
    ),
    Column(
        "best_accuracy",
        "percent",
        "test accuracy of the best epoch: the highest, as in the paper; where the data set has a validation "
        "part, of the epoch that is best there. Empty unless done",
    ),
    Column("best_epoch", "whole number, from 1", "the best epoch, the earliest on ties"),
    Column("last_accuracy", "percent", "test accuracy of the last epoch; empty unless done"),
    Column("hours", "hours", "time in epochs, testing included; so far, unless done"),
    Column("hardware", "text", "the device that trained it"),
    Column("commit", "text", "commit of the code; `+<8 hex>`: digest of what was changed on top of it"),
)

EPOCH = (
    Column("epoch", "whole number, from 1", "the epoch"),
    Column(
        "attempt",
        "whole number, from 1",
        "the attempt that trained this epoch; above 1 after an interruption",
    ),
    Column("lr", "", "learning rate at the end of the epoch"),
    Column("train_loss", "nats", "mean over the epoch of what was minimised"),
    Column("train_accuracy", "percent", "on augmented training images, during the epoch"),
    Column("test_loss", "nats", "cross-entropy on the test set"),
    Column("test_accuracy", "percent", "top-1 on the test set"),
    Column("test_top5", "percent", "top-5 on the test set"),
    Column("loss_ce", "nats", "the loss's cross-entropy part, not weighted"),
    Column("loss_kl", "nats", "the loss's KL part, summed over classes, not weighted; empty without one"),
    Column("seconds", "seconds", "the epoch, testing included"),
    Column("images_per_second", "images/s", "training images"),
)

RUNS = (*IDENTITY, *OUTCOME)
EPOCHS = (*IDENTITY, *EPOCH)


def names(columns: tuple[Column, ...]) -> list[str]:
    """The names, in the order of the file."""
    return [column.name for column in columns]


def columns_markdown() -> str:
    """COLUMNS.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# What the columns mean"
    yield ""
    yield (
        "UTF-8, comma-separated, one header line, `.` as decimal point; empty means unknown or not there. "
        "Floats are written with all their digits."
    )
    for title, about, columns in (
        ("runs.csv", "One line per run that was asked for, teachers included.", RUNS),
        (
            "epochs.csv",
            "One line per epoch of every finished run whose records are sound: the tables are computed from "
            "these runs and no others. Join with runs.csv on `run`.",
            EPOCHS,
        ),
    ):
        yield from (
            "",
            f"## {title}",
            "",
            about,
            "",
            "| column | unit or values | meaning |",
            "|---|---|---|",
        )
        yield from (f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in columns)
