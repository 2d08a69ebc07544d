"""A conventional suite's grid: a script trains one run, a driver trains the teacher, then two runs at a time.

`python -m benchmarks.suite FOLDER SCRATCH EPOCHS` prints the table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.grid import SEEDS, STUDENTS, TEACHER

if TYPE_CHECKING:
    from tfkd_cli.data import DataSet

AT_ONCE = 2


def drive(folder: Path, scratch: Path, *, epochs: int) -> None:
    """Train the teacher with all cores, the rest two at once with a thread each; print the table.

    Each student is trained alone and by the teacher, as `tfkd run` does for a table of gains.
    """
    cores = os.cpu_count() or 1
    teacher = scratch / "teacher.pt"
    accuracies = {
        (TEACHER, 0, False): _train(folder, TEACHER, seed=0, epochs=epochs, threads=cores, save=teacher)
    }

    def train(run: tuple[str, int, bool]) -> float:
        student, seed, taught = run
        threads = max(1, cores // AT_ONCE)
        by = teacher if taught else None
        return _train(folder, student, seed=seed, epochs=epochs, threads=threads, teacher=by)

    runs = [
        (student, seed, taught) for taught in (False, True) for student in STUDENTS for seed in range(SEEDS)
    ]
    runs = [run for run in runs if run not in accuracies]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        accuracies |= zip(runs, pool.map(train, runs), strict=True)
    for student in STUDENTS:
        print(student, *(_cell(accuracies, student, taught=taught) for taught in (False, True)), sep="  ")


def _cell(accuracies: Mapping[tuple[str, int, bool], float], student: str, *, taught: bool) -> str:
    values = [accuracies[student, seed, taught] for seed in range(SEEDS)]
    return f"{statistics.mean(values):6.2f} ± {statistics.stdev(values):.2f}"


def _train(
    folder: Path,
    network: str,
    *,
    seed: int,
    epochs: int,
    threads: int,
    save: Path | None = None,
    teacher: Path | None = None,
) -> float:
    order = {
        "folder": str(folder),
        "network": network,
        "seed": seed,
        "epochs": epochs,
        "workers": threads,
        "save": str(save) if save else None,
        "teacher": str(teacher) if teacher else None,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suite", json.dumps(order)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def train_one(order: str) -> float:
    """One run, from image files to its best accuracy in percent."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from benchmarks import conventional
    from tfkd_cli.methods import CrossEntropy, Distillation
    from tfkd_cli.spec import Recipe
    from tfkd_cli.training.trainer import learning_rate

    run = json.loads(order)
    recipe, facts = Recipe().with_epochs(run["epochs"]), _facts()
    training, testing = _loaders(Path(run["folder"]), workers=run["workers"])
    torch.manual_seed(run["seed"])
    network = conventional.build(run["network"], facts)
    teacher = None
    if run["teacher"]:
        teacher = conventional.build(TEACHER, facts).eval()
        teacher.load_state_dict(torch.load(run["teacher"], weights_only=True))
    loss = CrossEntropy() if teacher is None else Distillation()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.peak_lr, momentum=0.9, weight_decay=5e-4)
    steps = len(training)
    scheduler = LambdaLR(
        optimizer,
        lambda done: learning_rate(recipe, step=done + 1, steps_per_epoch=steps) / recipe.peak_lr,
    )
    best = 0.0
    for _ in range(run["epochs"]):
        for _ in conventional.train(
            network, training, optimizer, loss=loss, teacher=teacher, scheduler=scheduler
        ):
            pass
        best = max(best, conventional.evaluate(network, testing))
    if run["save"]:
        torch.save(network.state_dict(), run["save"])
    return best


def _facts() -> DataSet:
    """CIFAR-10's size, channels and normalisation."""
    from tfkd_cli.data import DATASETS

    return DATASETS["cifar10"]


def _loaders(folder: Path, *, workers: int) -> tuple[Any, Any]:
    """The loaders of the training and of the test images."""
    from benchmarks import conventional

    sets = [(conventional.folder_set(folder, _facts(), train=train), train) for train in (True, False)]
    training, testing = (
        conventional.loader(images, batch_size=128, workers=workers, train=train) for images, train in sets
    )
    return training, testing


def main(arguments: Sequence[str]) -> None:
    """Drive a grid, or be one of its runs."""
    if len(arguments) == 1:
        print(train_one(arguments[0]))
    else:
        folder, scratch, epochs = arguments
        drive(Path(folder), Path(scratch), epochs=int(epochs))


if __name__ == "__main__":
    main(sys.argv[1:])
