"""The columns of the frames, and what each of them means: name → (unit or values, meaning)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from tfkd_cli.methods import LOSSES, Distillation, LabelSmoothing, Loss, TfReg

Columns = Mapping[str, tuple[str, str]]

IDENTITY: Columns = {
    "run": ("text", "name of the run's folder in `runs/`; unique"),
    "dataset": ("text", "data set; `NAME@<12 hex>` is a content other than the official one"),
    "student": ("text", "the network that was trained"),
    "method": (
        "text",
        "baseline, lsr, kd, de-kd, tf-self, tf-reg or scaled-ce, from loss and teacher. In a report's "
        "files, a kd run that was requested only as re-kd or de-kd has that name",
    ),
    "form": ("released, printed", "the loss as in the released code, or as in the paper's equation"),
    "teacher": ("text", "network of the teacher; empty without one"),
    "checkpoint": (
        "best, last, a number, file:…",
        "which weights of the teacher's run taught: a number is an epoch, from 1; `file:<12 hex>` are "
        "weights from a file, `file:<8 hex>` those that torchvision publishes; then the `mean`, `std`, "
        "`size` and `resize` of its images, where they are not the student's",
    ),
    "seed": ("whole number", "of weights, batch order and, unless `augment_stream` is shared, augmentation"),
}

RECIPE: Columns = {
    "epochs": ("whole number", "length of the training"),
    "batch_size": ("images", "images in a batch"),
    "lr": ("", "learning rate at a batch of 128 images; it is scaled linearly with the batch size"),
    "momentum": ("", "of SGD"),
    "weight_decay": ("", "L2 penalty on all parameters"),
    "optimizer": ("sgd, adam", "the optimiser"),
    "milestones": ("epochs, as 60/120/160", "epochs done before each drop of the learning rate"),
    "lr_factor": ("", "what a drop multiplies the learning rate by"),
    "warmup_epochs": ("epochs", "length of the linear warm-up"),
    "augment": ("text", "augmentation of the training images"),
    "augment_stream": ("seed, shared", "`shared`: all seeds see the same views"),
    "precision": (
        "fp32, bf16",
        "what the recipe asks for; bf16 is fp32 on a device without units for it, as `numerics` in a run's "
        "result.json says",
    ),
    "trainer": (
        "whole number",
        "trainer version, raised by a change of the code that changes numbers: runs of different versions "
        "are not comparable",
    ),
    "holdout": ("share", "training images held out for validation; 0: none"),
    "decoder": ("torchvision, pillow", "what decodes image files while the network trains"),
    "corrupt": ("fail, skip", "a file that cannot be read ends the run, or the next one takes its place"),
}

OUTCOME: Columns = {
    "status": (
        "done, running, resumable, failed, damaged, todo",
        "see `tfkd status`; a report's files also have blocked: its teacher has failed",
    ),
    "best_accuracy": (
        "percent",
        "test accuracy of the best epoch: the best on the validation part where the data set has one, "
        "else on the test part, as in the paper. Empty unless done",
    ),
    "best_epoch": ("whole number, from 1", "that epoch"),
    "last_accuracy": ("percent", "test accuracy of the last epoch; empty unless done"),
    "test_loss": ("nats", "cross-entropy on the test part at the best epoch"),
    "test_top5": ("percent", "top-5 test accuracy at the best epoch"),
    "balanced_accuracy": (
        "percent",
        "mean of the test accuracies within each class, best epoch",
    ),
    "ece": ("percent", "expected calibration error on the test part at the best epoch"),
    "val_accuracy": (
        "percent",
        "accuracy on the validation part at the best epoch; empty without such a part",
    ),
    "val_loss": ("nats", "cross-entropy on the validation part at the best epoch"),
    "seconds": ("seconds", "time in the epochs of this run, testing included; so far, unless done"),
    "teacher_seconds": ("seconds", "of these, until a teacher's logits for an epoch were there"),
    "attempts": ("whole number", "how often the run was started"),
    "device": ("cpu, cuda, mps", "kind of the device that trained it"),
    "hardware": ("text", "name of the device"),
    "commit": (
        "text",
        "commit of the code, `+<8 hex>`: digest of changes on top of it; several, joined by `; `, where "
        "attempts with different code trained this run",
    ),
    "finished_at": ("date and time, UTC", "when the result was written"),
    "problem": (
        "text",
        "why the run failed, is damaged, or cannot be compared (an older trainer version); empty otherwise",
    ),
    "key": ("64 hex digits", "the run's key: sha256 of its resolved values"),
}


def loss_columns(loss: type[Loss]) -> dict[str, str]:
    """Field of a loss → its column: the same name, with `loss_` where another column has it."""
    taken = {*IDENTITY, *RECIPE, *OUTCOME, "scale"}  # reports have a column `scale`
    return {f.name: f"loss_{f.name}" if f.name in taken else f.name for f in fields(loss)}


LOSS: Columns = {
    loss_columns(loss)[f.name]: (f.metadata["unit"], f.metadata["meaning"])
    for loss in (Distillation, TfReg, LabelSmoothing, *LOSSES.values())
    for f in fields(loss)
}

RUNS: Columns = {**IDENTITY, **RECIPE, **LOSS, **OUTCOME}

EPOCH: Columns = {
    "epoch": ("whole number, from 1", "the epoch"),
    "attempt": ("whole number, from 1", "the attempt that trained it; above 1 after an interruption"),
    "lr": ("", "learning rate at the end of the epoch"),
    "train_loss": ("nats", "mean over the epoch of the loss that was minimised"),
    "train_accuracy": ("percent", "on augmented training images, during the epoch"),
    "test_loss": ("nats", "cross-entropy on the test part"),
    "test_accuracy": ("percent", "top-1 on the test part"),
    "test_top5": ("percent", "top-5 on the test part"),
    "val_loss": ("nats", "cross-entropy on the validation part; empty without such a part"),
    "val_accuracy": ("percent", "top-1 on the validation part"),
    **{f"loss_{part}": ("nats", what) for part, what in Loss.reports.items()},
    "seconds": ("seconds", "the epoch, testing included"),
    "teacher_seconds": ("seconds", "of these, until a teacher's logits were there"),
    "images_per_second": ("images/s", "training images"),
}

EPOCHS: Columns = {**IDENTITY, **EPOCH}


def markdown(columns: Columns) -> str:
    """The columns as a Markdown table."""
    rows = (f"| `{name}` | {unit} | {meaning} |" for name, (unit, meaning) in columns.items())
    return "\n".join(["| column | unit or values | meaning |", "|---|---|---|", *rows])
