"""The loop the field writes: PIL transforms in DataLoader workers, fp32, eager, the teacher run at each step.

Written plainly, as such loops are; nothing of tfkd's trainer is used, only its networks (in torch's default
memory format). `teacher_grad` runs the teacher with gradients on, as the released code does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from tfkd_cli import models
from tfkd_cli.data import Arrays, DataSet
from tfkd_cli.methods import Distillation, Loss, TfReg

Pixels = Dataset[tuple[Tensor, int]]


class InMemory(Pixels):
    """As torchvision's CIFAR10: decoded arrays, each image made a PIL image and transformed when asked."""

    def __init__(self, images: Any, labels: Any, transform: Any) -> None:
        self.images_NHWC = images.transpose(0, 2, 3, 1).copy()
        self.labels_N, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images_NHWC[index].squeeze())), int(self.labels_N[index])


def train_transform(facts: DataSet) -> Any:
    """Crop, flip, rotation: the released CIFAR pipeline."""
    return transforms.Compose(
        [
            transforms.RandomCrop(facts.size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(15),
            transforms.ToTensor(),
            transforms.Normalize(facts.mean, facts.std),
        ]
    )


def test_transform(facts: DataSet) -> Any:
    """Images as they are."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(facts.mean, facts.std)])


def train_set(arrays: Arrays) -> Pixels:
    """The training images, from memory."""
    return InMemory(arrays.train_images_NCHW, arrays.train_labels_N, train_transform(arrays.facts))


def folder_set(folder: Path, facts: DataSet, *, train: bool) -> Pixels:
    """The images of a part of an image folder, from their files."""
    transform = train_transform(facts) if train else test_transform(facts)
    images: Pixels = datasets.ImageFolder(str(folder / ("train" if train else "test")), transform)
    return images


def build(name: str, facts: DataSet) -> nn.Module:
    """The same network as ours, as torch makes it."""
    return models.build(name, classes=facts.classes, channels=facts.channels, size=facts.size)


def loss_of(loss: Loss, outputs: Tensor, labels: Tensor, teacher_outputs: Tensor | None) -> Tensor:
    """The same loss as ours, in torch's own words."""
    ce = F.cross_entropy(outputs, labels)
    if isinstance(loss, Distillation):
        assert teacher_outputs is not None
        temperature = loss.temperature
        student_log = F.log_softmax(outputs / temperature, dim=1)
        kl = F.kl_div(student_log, F.softmax(teacher_outputs / temperature, dim=1), reduction="none").mean()
        return (1 - loss.alpha) * ce + loss.alpha * loss.multiplier * temperature**2 * kl
    if isinstance(loss, TfReg):
        classes = outputs.shape[1]
        with torch.no_grad():
            soft = torch.full_like(outputs, (1 - loss.correct_prob) / (classes - 1))
            for row, label in enumerate(labels):  # as released
                soft[row, label] = loss.correct_prob
        target = F.softmax(soft / loss.temperature, dim=1)
        kl = F.kl_div(F.log_softmax(outputs, dim=1), target, reduction="none").mean()
        return (1 - loss.alpha) * ce + loss.alpha * loss.multiplier * kl
    return ce


def loader(images: Pixels, *, batch_size: int, workers: int, train: bool) -> DataLoader[Any]:
    """A DataLoader; a warning about more workers than cores is the user's to see, not the benchmark's."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return DataLoader(images, batch_size=batch_size, shuffle=train, num_workers=workers)


def train(
    network: nn.Module,
    batches: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss,
    teacher: nn.Module | None,
    teacher_grad: bool = False,
    scheduler: Any = None,
    device: torch.device | None = None,
) -> Iterator[float]:
    """One epoch on the network's device, step by step; yields the running mean of the loss."""
    network.train()
    total = correct = seen = 0.0
    for images, labels in batches:
        if device is not None:
            images, labels = images.to(device), labels.to(device)
        outputs = network(images)
        teacher_outputs = None
        if teacher is not None:
            with torch.set_grad_enabled(teacher_grad):
                teacher_outputs = teacher(images).detach()
        value = loss_of(loss, outputs, labels, teacher_outputs)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += value.item() * len(labels)
        correct += (outputs.argmax(1) == labels).sum().item()
        seen += len(labels)
        yield total / seen


def evaluate(network: nn.Module, batches: DataLoader[Any]) -> float:
    """Accuracy in percent."""
    network.eval()
    correct = seen = 0
    with torch.no_grad():
        for images, labels in batches:
            correct += int((network(images).argmax(1) == labels).sum().item())
            seen += len(labels)
    return 100 * correct / seen
