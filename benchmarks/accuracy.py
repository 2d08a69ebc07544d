"""What speed costs in accuracy: pairs of arms that differ in one thing, over the same seeds.

    python -m benchmarks.accuracy --data FOLDER --seeds 10 --epochs 5 --out accuracy.jsonl

A run is one line of --out; the same command goes on where it stopped. The plain CNN is trained, by a ResNet8
where there is a teacher; two runs at once with one thread each. The accuracy is the last epoch's on the test
images: the best of several is a choice, and favours whatever is noisier. The arm "bf16" differs from "paper"
only on a processor with bf16 units: elsewhere tfkd computes in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks import images
from benchmarks.arguments import count, file_to_write, image_folder
from benchmarks.workloads import AUGMENT
from tfkd_cli.spec import AugmentStream, Precision

STUDENT, TEACHER = "plain-cnn", "resnet8"
AT_ONCE = 2
CONFIDENCE = 0.95

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.training.teacher_logits import FrozenTeacher


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train; the teacher is "run" in fp32 at each step, or its logits are "cached" as fp16."""

    precision: Precision = "fp32"
    stream: AugmentStream = "seed"
    teacher_logits: str | None = None


ARMS: Mapping[str, Arm] = {
    "paper": Arm(),
    "bf16": Arm(precision="bf16"),
    "one stream": Arm(stream="shared"),
    "run": Arm(stream="shared", teacher_logits="run"),
    "cached": Arm(stream="shared", teacher_logits="cached"),
}
PAIRS = (
    ("paper", "bf16"),
    ("paper", "one stream"),
    ("run", "cached"),
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second arm minus first, in points, over n shared seeds; `interval` is half of the 95 % one."""

    n: int
    mean: float
    interval: float
    ratio_of_std: float


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """The paired difference over the seeds both have (Student's t)."""
    from scipy.stats import t

    seeds = sorted(first.keys() & second.keys())
    gains = [second[seed] - first[seed] for seed in seeds]
    spread, n = statistics.stdev(gains), len(gains)
    return Difference(
        n=n,
        mean=statistics.mean(gains),
        interval=float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / n**0.5,
        ratio_of_std=statistics.stdev(second[s] for s in seeds)
        / (statistics.stdev(first[s] for s in seeds) or 1e-9),
    )


def train_one(order: Mapping[str, Any]) -> float:
    """One run by tfkd's trainer; the last test accuracy in percent."""
    import torch

    from tfkd_cli.methods import CrossEntropy, Distillation
    from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec
    from tfkd_cli.training import checkpoints
    from tfkd_cli.training.teacher_logits import TeacherLogits
    from tfkd_cli.training.trainer import Training

    arm, device = Arm(**order["arm"]), torch.device("cpu")
    arrays = _some(images.load(order["dataset"], cache=Path(order["cache"])), count=order["images"])
    recipe = replace(
        Recipe(augment=AUGMENT).with_epochs(order["epochs"]),
        precision=arm.precision,
        augment_stream=arm.stream,
    )
    teacher = _teacher(Path(order["teacher"]), arrays) if arm.teacher_logits else None
    teacher_logits = None
    if teacher is not None and arm.teacher_logits == "cached":
        count, classes = len(arrays.train_labels_N), arrays.facts.classes
        teacher_logits = TeacherLogits(teacher=teacher, images=count, classes=classes, device=device)
    spec = RunSpec(
        dataset=arrays.facts.name,
        student=order["student"],
        loss=Distillation() if arm.teacher_logits else CrossEntropy(),
        teacher=ForeignTeacher(network=TEACHER, digest="0" * 64) if arm.teacher_logits else None,
        recipe=recipe,
        seed=order["seed"],
    )
    training = Training(spec, data=arrays, device=device, teacher=teacher, teacher_logits=teacher_logits)
    *_, last = training.epochs()
    if order.get("save"):
        torch.save(checkpoints.weights_of(training.network), order["save"])
    return last.test_accuracy


def _some(arrays: Arrays, *, count: int) -> Arrays:
    """About `count` of the training images, evenly: classes lie in order."""
    few = slice(None, None, max(1, len(arrays.train_labels_N) // count))
    return replace(
        arrays, train_images_NCHW=arrays.train_images_NCHW[few], train_labels_N=arrays.train_labels_N[few]
    )


def _teacher(weights: Path, arrays: Arrays) -> FrozenTeacher:
    """The trained teacher, run in fp32."""
    import torch

    from tfkd_cli import models
    from tfkd_cli.data.augment import Normalise
    from tfkd_cli.training import checkpoints
    from tfkd_cli.training.teacher_logits import FrozenTeacher

    facts = arrays.facts
    network = models.build(TEACHER, classes=facts.classes, channels=facts.channels, size=facts.size)
    checkpoints.fill(network, checkpoints.read_weights(weights), path=weights, name=TEACHER)
    example = torch.from_numpy(arrays.train_images_NCHW[:8].copy())
    example = Normalise(facts, device=example.device)(example)
    return FrozenTeacher(network, device=torch.device("cpu"), precision_name="fp32", example=example)


def run(order: Mapping[str, Any]) -> float:
    """`train_one` in a process of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.accuracy", "--one", json.dumps(order)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def read(path: Path) -> dict[str, dict[int, float]]:
    """Accuracies by arm and seed, of the runs that are done."""
    found: dict[str, dict[int, float]] = {name: {} for name in ARMS}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        if row["arm"] in found:
            found[row["arm"]][row["seed"]] = row["accuracy"]
    return found


def train_all(options: argparse.Namespace, *, console: Console) -> None:
    """Every run that --out has not yet, seed by seed, so that a part of them is already a comparison."""
    done = read(options.out)
    cache = options.out.with_suffix(".cache")
    common = {
        "dataset": images.prepare(options.data, cache=cache),
        "cache": str(cache),
        "epochs": options.epochs,
        "images": options.images,
        "student": STUDENT,
        "teacher": str(options.out.with_suffix(".teacher.pt")),
    }
    if not Path(common["teacher"]).exists() and any(ARMS[name].teacher_logits for name in options.arm):
        run({**common, "arm": asdict(Arm()), "student": TEACHER, "seed": 0, "save": common["teacher"]})

    def one(task: tuple[str, int]) -> None:
        name, seed = task
        accuracy = run({**common, "arm": asdict(ARMS[name]), "seed": seed})
        line = {"arm": name, "seed": seed, "accuracy": accuracy, "epochs": options.epochs}
        with options.out.open("a") as stream:
            stream.write(json.dumps({**line, "images": options.images}) + "\n")
        console.print(f"{name}, seed {seed}: {accuracy:.2f} %")

    tasks = [(name, seed) for seed in range(options.seeds) for name in options.arm if seed not in done[name]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, tasks))


def table(accuracies: Mapping[str, Mapping[int, float]]) -> Table:
    """A row per pair of arms that share two seeds at least."""
    shown = Table(title="Accuracy: second minus first, in points", title_justify="left", box=None)
    for name in ("first", "second", "n", "mean ± std", "difference ± 95 %", "ratio of std"):
        shown.add_column(name)
    for first, second in PAIRS:
        if len(accuracies[first].keys() & accuracies[second].keys()) < 2:
            continue
        found = difference(accuracies[first], accuracies[second])
        values = list(accuracies[first].values())
        shown.add_row(
            first,
            second,
            str(found.n),
            f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}",
            f"{found.mean:+.2f} ± {found.interval:.2f}",
            f"{found.ratio_of_std:.2f}",
        )
    return shown


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--data", type=image_folder, help="train/CLASS/* and test/CLASS/* [synthetic]")
    parser.add_argument("--seeds", type=count, default=10)
    parser.add_argument("--epochs", type=count, default=5)
    parser.add_argument("--images", type=count, default=50_000, help="at most so many training images")
    parser.add_argument("--arm", action="append", choices=ARMS, help=f"repeatable [all]: {', '.join(ARMS)}")
    parser.add_argument("--out", type=file_to_write, default=Path("accuracy.jsonl"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, show what there is."""
    options = parse(arguments)
    if options.one:
        print(train_one(json.loads(options.one)))
        return 0
    options.arm = options.arm or list(ARMS)
    with tempfile.TemporaryDirectory(prefix="tfkd-bench-") as scratch:
        options.data = options.data or images.write_synthetic(Path(scratch) / "images")
        train_all(options, console=Console(stderr=True))
    Console().print(table(read(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
