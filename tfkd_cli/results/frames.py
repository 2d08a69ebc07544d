"""Runs as pandas frames."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tfkd_cli.results import columns
from tfkd_cli.results.reading import Run
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher

if TYPE_CHECKING:
    import pandas as pd

AT_BEST = {
    "best_accuracy": "accuracy",
    "best_epoch": "epoch",
    "test_loss": "loss",
    "test_top5": "top5",
    **{name: name for name in ("balanced_accuracy", "ece", "val_accuracy", "val_loss")},
}
"""Column → its name in the part `best` of a result."""

WHOLE = ("seed", "epochs", "batch_size", "trainer", "best_epoch", "attempts")
MEASURED = (*(AT_BEST.keys() - {"best_epoch"}), "last_accuracy", "seconds", "teacher_seconds")


def runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run, with the columns `columns.RUNS` (and one for every other field of a loss)."""
    import pandas as pd

    frame = pd.DataFrame([_row(run) for run in runs])
    more = [name for name in frame.columns if name not in columns.RUNS]
    types = {**dict.fromkeys(WHOLE, "Int64"), **dict.fromkeys(MEASURED, "float64")}
    return frame.reindex(columns=[*columns.RUNS, *more]).astype(types)


def epochs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per epoch of the finished runs: the columns `columns.EPOCHS` and other parts of losses."""
    import pandas as pd

    done = [run for run in runs if run.done]
    frame = pd.DataFrame.from_records([line for run in done for line in run.lines])
    more = [name for name in frame.columns if name not in columns.EPOCH]
    frame = frame.reindex(columns=[*columns.EPOCH, *more])
    owner = [number for number, run in enumerate(done) for _ in run.lines]
    identity = runs_frame(done)[[*columns.IDENTITY]]
    for place, name in enumerate(columns.IDENTITY):
        values = identity[name] if name == "seed" else identity[name].astype("category")
        frame.insert(place, name, values.take(owner).array)
    return frame


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame by column, with None where a value is missing."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def confusion_matrix(run: Run) -> pd.DataFrame | None:
    """Test images of a finished run at its best epoch, counted: rows are true classes, columns predictions.

    None where the data set has more than 200 classes, and for an unfinished run.
    """
    import numpy as np
    import pandas as pd

    rows = (run.result.get("best") or {}).get("confusion")
    if not rows:
        return None
    counts = np.loadtxt(rows, dtype=np.int64, ndmin=2)
    names = run.result.get("class_names") or range(len(counts))
    return pd.DataFrame(
        counts, index=pd.Index(names, name="true class"), columns=pd.Index(names, name="predicted")
    )


def _row(run: Run) -> dict[str, Any]:
    result, best = run.result, run.result.get("best") or {}
    source = result or run.began
    numerics = source.get("numerics") or {}
    seconds = [line.get("seconds") or 0.0 for line in run.lines]
    return {
        "run": run.name,
        **(_of_spec(run.spec) if run.spec else {}),
        "status": run.state.status,
        **{column: best.get(name) for column, name in AT_BEST.items()},
        "last_accuracy": (result.get("last") or {}).get("accuracy"),
        "seconds": sum(seconds) if seconds else None,
        "teacher_seconds": result.get("teacher_seconds"),
        "attempts": run.state.attempts,
        "device": numerics.get("device"),
        "hardware": result.get("hardware") or numerics.get("device_name") or run.began.get("cpu"),
        "commit": commit(source, {line.get("attempt") for line in run.lines}),
        "finished_at": result.get("finished_at"),
        "problem": _problem(run),
        "key": run.spec.key if run.spec else run.state.key,
    }


def _problem(run: Run) -> str | None:
    """Why it failed, is damaged, cannot be read or compared; None where nothing of that holds."""
    failure = run.state.failure or {}
    unread = run.note if run.spec is None else ""
    what = run.state.damage or failure.get("message") or unread
    found = "; ".join(filter(None, [run.spec.outdated if run.spec else "", what]))
    return " ".join(found.split()) or None  # a CSV file has a line per run


def _of_spec(spec: RunSpec) -> dict[str, Any]:
    loss = {
        column: getattr(spec.loss, name) for name, column in columns.loss_columns(type(spec.loss)).items()
    }
    return {
        "dataset": spec.dataset,
        "student": spec.student,
        "method": spec.method,
        "form": form(spec),
        "teacher": spec.teacher.network if spec.teacher else None,
        "checkpoint": checkpoint(spec),
        "seed": spec.seed,
        **vars(spec.recipe),
        "milestones": "/".join(map(str, spec.recipe.milestones)),
        "trainer": spec.trainer,
        **loss,
    }


def form(spec: RunSpec) -> str:
    """`released` or `printed`: the form whose values its loss has; `released` where it has neither."""
    forms = spec.loss.FORMS.items()
    fits = (name for name, values in forms if all(getattr(spec.loss, k) == v for k, v in values.items()))
    return next(fits, "released")


def checkpoint(spec: RunSpec) -> str | None:
    """Which weights of its teacher taught it; None without a teacher."""
    if isinstance(spec.teacher, Teacher):
        return str(spec.teacher.checkpoint)
    if not isinstance(spec.teacher, ForeignTeacher):
        return None
    inputs = (f"{name}={_plain(value)}" for name, value in spec.teacher.inputs.items())
    return " ".join([f"file:{spec.teacher.digest[:12]}", *inputs])


def _plain(value: Any) -> str:
    """`(0.5, 0.4)` → `0.5,0.4`, as on the command line."""
    return ",".join(f"{each:g}" for each in (value if isinstance(value, tuple) else (value,)))


def commit(source: Mapping[str, Any], attempts: Collection[Any]) -> str | None:
    """The code that trained a run: `COMMIT+DIFF`, one for each version among these attempts."""
    by_attempt = source.get("commits") or {}
    used = [code for number, code in by_attempt.items() if number.isdigit() and int(number) in attempts]
    own, diff = str(source.get("commit") or ""), str(source.get("diff") or "")
    return "; ".join(dict.fromkeys(map(str, used))) or (f"{own}+{diff[:8]}" if diff else own) or None
