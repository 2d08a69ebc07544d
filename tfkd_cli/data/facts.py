"""What each data set is, without torch: classes, sizes, normalisation, reader.

A data set is a `DataSet` and a module that reads it (see `reader.py`): here an entry in `DATASETS`; outside
tfkd `--dataset python:module:NAME`, or registered under the entry point group `tfkd.datasets` (see `own.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tfkd_cli import schema

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.typing import NDArray

Channels = tuple[float, ...]  # one value per channel, for pixels in [0, 1]
Levels = tuple[tuple[str, float, float], ...]  # "I" (integers) or "F" (floats), black, white


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The facts of a data set; `full` is False when the content is not known to be the official one."""

    name: str  # goes into RunSpec.dataset: "cifar100", "folder@<12 hex>", "tiny-imagenet@<12 hex>"
    label: str  # as the paper prints it
    classes: int
    channels: int
    size: int  # height and width in pixels
    train_images: int
    test_images: int
    val_images: int = 0  # only own folders have a validation part
    mean: Channels
    std: Channels
    module: str = ""  # its reader; outside tfkd the module that declares it, unless another is named
    source: str = ""  # where the content comes from
    full: bool = True
    unchecked: bool = False  # as many images as the official content, which nothing here can compare
    follow_links: bool = False  # of a folder: how its files were found
    nested: bool = False
    full_size: bool = False  # views are cut from images of their own size, not from squares of `size`
    levels: Levels = ()  # of images with more than eight bits a value: which values are black and white
    augmentation: str = ""  # the default recipe's, of a data set that hyperparameters.toml does not know
    corrupt: tuple[str, ...] = ()  # image files of imagenet-quick that cannot be read and are left out
    notes: tuple[str, ...] = ()  # what a reader of its numbers must know

    @property
    def called(self) -> str:
        """What readers are told: the label, of own images the name of their folder."""
        return self.label.removeprefix("folder ")

    @property
    def caveat(self) -> str:
        """What must stand wherever the data set is named; empty for the official content."""
        if self.unchecked:
            return "an unchecked full copy"
        return "" if self.full else "not the full data set"

    def to_json(self) -> dict[str, Any]:
        """All values as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataSet:
        """The facts that `to_json` wrote; RequestError on anything else."""
        known = {field.name for field in fields(cls)}
        facts: DataSet = schema.convert({key: data[key] for key in data.keys() & known}, cls, of="facts")
        return facts


@dataclass(frozen=True, kw_only=True)
class ResolvedData:
    """What a name means here and now: facts, where the content is, and whether it is decoded already."""

    facts: DataSet
    source: str | None = None  # path of the official files, for Execution.sources[name]
    ready: bool = False  # decoded in the cache
    available: bool = False  # ready, or can be made so without network
    download: str | None = None  # what would be fetched, with its size

    @property
    def name(self) -> str:
        """The name that goes into RunSpec.dataset."""
        return self.facts.name


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A data set: memory-mapped uint8 images (N images, C channels) and int64 labels.

    Of a set that is not decoded in advance, an `ImageFiles` stands for each array of images: it has a length
    and a shape, and gives decoded images for a slice.
    """

    facts: DataSet
    class_names: tuple[str, ...]
    train_images_NCHW: NDArray[uint8]
    train_labels_N: NDArray[int64]
    test_images_NCHW: NDArray[uint8]
    test_labels_N: NDArray[int64]
    val_images_NCHW: NDArray[uint8] | None = None
    val_labels_N: NDArray[int64] | None = None


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a training image is varied; every part is drawn anew for each (stream, epoch, image)."""

    what: str
    pad: int = 0  # zero padding of a random crop at 32 pixels or fewer; grows with larger images
    flip: bool = False  # left-right, probability 1/2
    degrees: float = 0.0  # rotation by a uniform angle in ±degrees, nearest neighbour, zero fill
    rotate_first: bool = False  # rotation before the flip instead of after crop and flip
    resized_crop: bool = False  # a box of 8–100 % of the area, aspect 3/4–4/3, scaled back

    def padding(self, size: int) -> int:
        """Padding in pixels at this image size: the share of 32 pixels that `pad` is, at least `pad`."""
        return max(self.pad, math.floor(self.pad * size / 32))


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": Augmentation(what="images as they are"),
    "shift": Augmentation(what="shifted by up to 2 pixels, zero fill", pad=2),
    "crop-flip": Augmentation(what="random crop with padding 4, flip", pad=4, flip=True),
    # released data_loader.py, CIFAR: RandomCrop(32, padding=4), RandomHorizontalFlip, RandomRotation(15)
    "crop-flip-rotate15": Augmentation(
        what="random crop with padding 4, flip, rotation by up to 15°", pad=4, flip=True, degrees=15.0
    ),
    # released data_loader.py, Tiny-ImageNet: RandomRotation(20), RandomHorizontalFlip, in this order
    "flip-rotate20": Augmentation(
        what="rotation by up to 20°, flip", flip=True, degrees=20.0, rotate_first=True
    ),
    "rrc-flip": Augmentation(what="random resized crop, flip (finetuning)", flip=True, resized_crop=True),
}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# released data_loader.py: CIFAR-100's constants, used for CIFAR-10 too; kept, the numbers came from them.
CIFAR100_MEAN = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)
CIFAR100_STD = (0.2673342858792401, 0.2564384629170883, 0.27615047132568404)


def _cifar(name: str, label: str, classes: int, archive: str) -> DataSet:
    return DataSet(
        name=name,
        label=label,
        classes=classes,
        channels=3,
        size=32,
        train_images=50_000,
        test_images=10_000,
        mean=CIFAR100_MEAN,
        std=CIFAR100_STD,
        module="tfkd_cli.data.cifar",
        source=f"{archive}, or the folder that it unpacks to (Krizhevsky 2009, md5 checked)",
    )


DIGITS = DataSet(
    name="digits",
    label="digits",
    classes=10,
    channels=1,
    size=32,
    train_images=1_438,
    test_images=359,
    mean=(0.3050,),
    std=(0.3234,),
    module="tfkd_cli.data.digits",
    source="scikit-learn's load_digits (UCI optical recognition of handwritten digits), embedded",
    notes=("8×8 images upscaled to 32×32, a toy: it decides nothing about the paper",),
)

FASHION_MNIST = DataSet(
    name="fashion-mnist",
    label="Fashion-MNIST",
    classes=10,
    channels=1,
    size=28,
    train_images=60_000,
    test_images=10_000,
    mean=(0.2860,),
    std=(0.3530,),
    module="tfkd_cli.data.fashion_mnist",
    source="train-images-idx3-ubyte.gz and the three files beside it (Xiao et al. 2017, md5 checked)",
)

TINY_IMAGENET = DataSet(
    name="tiny-imagenet",
    label="Tiny-ImageNet",
    classes=200,
    channels=3,
    size=64,
    train_images=100_000,
    test_images=10_000,
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2302, 0.2265, 0.2262),
    module="tfkd_cli.data.tiny_imagenet",
    source="tiny-imagenet-200.zip, or the folder that it unpacks to (Stanford CS231N, md5 checked); its "
    "validation part is the test part",
)

IMAGENET = DataSet(
    name="imagenet",
    label="ImageNet",
    classes=1_000,
    channels=3,
    size=224,
    train_images=1_281_167,
    test_images=50_000,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    module="tfkd_cli.data.imagenet",
    source="ILSVRC 2012 from image-net.org: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the "
    "development kit, or train/WNID/*.JPEG and val/WNID/*.JPEG",
    full_size=True,
)

IMAGENET_QUICK = replace(
    IMAGENET,
    name="imagenet-quick",
    label="ImageNet, quick",
    classes=100,
    size=64,
    full_size=False,
    train_images=5_000,
    test_images=1_000,
    source="a folder with ILSVRC 2012 as train/WNID/*.JPEG and val/WNID/*.JPEG",
    full=False,
    notes=("100 classes of ImageNet or fewer, few images, 64 pixels: nothing is compared with the paper",),
)

DATASETS: Mapping[str, DataSet] = {
    facts.name: facts
    for facts in (
        DIGITS,
        FASHION_MNIST,
        _cifar("cifar10", "CIFAR-10", 10, "cifar-10-python.tar.gz"),
        _cifar("cifar100", "CIFAR-100", 100, "cifar-100-python.tar.gz"),
        TINY_IMAGENET,
        IMAGENET,
        IMAGENET_QUICK,
    )
}

PARENTS: Mapping[str, str] = {IMAGENET_QUICK.name: IMAGENET.name}
"""Data sets that are made of the files of another one, and found where that is."""
