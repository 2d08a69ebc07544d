"""Images that are decoded while a network trains: their pixels, whoever decodes them, and broken files."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, RandomResizedCrop, Resize
from torchvision.transforms import functional as pil

from tests.data.conftest import ImageFile, MakeFolder
from tests.data.ilsvrc import WNIDS, jpeg, make_tree
from tfkd_cli import data
from tfkd_cli.data.augment import Augment, crop_boxes, flips
from tfkd_cli.data.image_files import ImageFiles, Reading
from tfkd_cli.data.split import hold_out
from tfkd_cli.data.streaming import Stream, requests
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.training.parts import Part, part_of

CPU = torch.device("cpu")
SIZE = 32  # of the views; 224 would test the same


@pytest.fixture(autouse=True)
def _decoding_processes_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a loader that the garbage collector ends are not told so: its queues are gone already."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds; else 5


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def trained(tree: Path, execution: Execution, **reading: object) -> ImageFiles:
    """The training files of a tree, seen at SIZE pixels."""
    name = data.prepare("imagenet", execution=execution, source=tree).name
    files: object = data.load(name, execution=execution).train_images_NCHW
    assert isinstance(files, ImageFiles)
    return replace(files, facts=replace(files.facts, size=SIZE), reading=replace(Reading(), **reading))  # type: ignore[arg-type]


def part(files: ImageFiles) -> Part:
    return part_of(files, np.arange(len(files)), CPU)


def views(
    files: ImageFiles, indices: list[int], *, stream: int = 0, epoch: int = 1, batch: int = 4
) -> Tensor:
    augment = Augment("rrc-flip", size=SIZE, device=CPU)
    batches = torch.split(torch.tensor(indices), batch)
    seen = [each.images_NCHW for each in part(files).views(batches, augment, stream=stream, epoch=epoch)]
    assert [len(each) for each in seen] == [len(each) for each in batches]
    return torch.cat(seen)


def test_a_view_depends_on_stream_epoch_and_index_alone(tree: Path, execution: Execution) -> None:
    files = trained(tree, execution)
    everything = views(files, [*range(15)])
    some = [11, 3, 7, 0]
    for workers in (0, 1, 3):
        again = replace(files, reading=Reading(workers=workers))
        assert torch.equal(views(again, some, batch=3), everything[some])
    assert not torch.equal(views(files, some, epoch=2), everything[some])
    assert not torch.equal(views(files, some, stream=1), everything[some])


@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
def test_views_are_those_of_torchvisions_transforms_of_pil_images(
    tree: Path, execution: Execution, decoder: str
) -> None:
    """Pixel by pixel where Pillow decodes; elsewhere up to the rounding of the resized values."""
    files = trained(tree, execution, decoder=decoder)
    indices = torch.arange(len(files))
    images = [Image.open(files.place / files.name(i)).convert("RGB") for i in range(len(files))]
    sizes = torch.tensor([(image.height, image.width) for image in images])
    boxes = crop_boxes(*sizes.unbind(1), stream=5, epoch=2, indices_N=indices)
    flipped = flips(5, 2, indices).tolist()
    assert set(flipped) == {0, 1}
    expected = []
    for image, box, flip in zip(images, boxes.tolist(), flipped, strict=True):
        cut = pil.resized_crop(image, *box, [SIZE, SIZE], antialias=True)
        expected.append(pil.pil_to_tensor(pil.hflip(cut) if flip else cut))
    found = views(files, indices.tolist(), stream=5, epoch=2)
    worst = int((found.int() - torch.stack(expected).int()).abs().max())
    assert worst <= (0 if decoder == "pillow" else 1)
    resize = Compose([Resize(SIZE * 256 // 224), CenterCrop(SIZE), pil.pil_to_tensor])
    evaluated = torch.stack([resize(image) for image in images])
    assert int((torch.from_numpy(files[:]).int() - evaluated.int()).abs().max()) <= worst
    assert (files[:] == evaluated.numpy()).mean() > 0.95


def test_random_resized_crops_are_distributed_as_torchvisions() -> None:
    """Mean and quartiles of area, aspect and place, for images of three shapes; n = 1,500 each."""
    torch.manual_seed(0)
    for height, width in ((375, 500), (500, 100), (64, 64)):
        image = torch.empty(3, height, width)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1_500)]
        )
        shape = torch.full((1_500,), height), torch.full((1_500,), width)
        ours = crop_boxes(*shape, stream=3, epoch=1, indices_N=torch.arange(1_500))
        for boxes in (ours, theirs):
            top, left, box_height, box_width = boxes.unbind(1)
            assert int((top + box_height).max()) <= height
            assert int((left + box_width).max()) <= width
            assert int(boxes[:, 2:].min()) > 0
        for column in range(4):
            one, other = (boxes[:, column].double().sort().values for boxes in (ours, theirs))
            both = torch.cat([one, other]).sort().values
            ranks = [torch.searchsorted(each, both, right=True) for each in (one, other)]
            distance = float((ranks[0] - ranks[1]).abs().max()) / 1_500  # of Kolmogorov and Smirnov
            assert distance < 1.95 * (2 / 1_500) ** 0.5  # p = 0.001


def test_grey_cmyk_and_png_files_are_read_whatever_their_name(tree: Path, execution: Execution) -> None:
    files = trained(tree, execution)
    kinds = []
    for label in range(len(WNIDS)):
        with Image.open(files.place / files.name(5 * label)) as image:
            kinds.append((image.format, image.mode))
            expected = np.asarray(
                Compose([Resize(SIZE * 256 // 224), CenterCrop(SIZE)])(image.convert("RGB")), dtype=np.int16
            )
        seen = files[5 * label : 5 * label + 1][0].transpose(1, 2, 0).astype(np.int16)
        assert np.abs(seen - expected).max() <= 1
    assert kinds == [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")]


def test_exif_data_are_read_past_and_their_orientation_is_not_applied(
    tree: Path, execution: Execution, tmp_path: Path
) -> None:
    """As torchvision's ImageFolder does, with whose pixels networks for ImageNet are trained."""
    file = tree / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    file.write_bytes(jpeg(2, exif=exif))
    turned = trained(tree, execution)[1:2]
    plain = trained(make_tree(tmp_path / "plain"), execution)
    assert np.array_equal(plain[1:2], turned)


def broken(tree: Path, *numbers: int) -> None:
    for number in numbers:
        file = tree / "train" / WNIDS[1] / f"{WNIDS[1]}_{number}.JPEG"
        file.write_bytes(file.read_bytes()[:600] if number % 2 else b"no image")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
def test_a_corrupt_file_is_named_and_fails(
    tree: Path, execution: Execution, decoder: str, workers: int
) -> None:
    broken(tree, 3)
    files = trained(tree, execution, decoder=decoder, workers=workers)
    with pytest.raises(RunError, match=rf"train/{WNIDS[1]}/{WNIDS[1]}_3\.JPEG.* cannot be read") as error:
        views(files, [*range(15)])
    assert "data.corrupt=skip" in error.value.hint


def test_a_corrupt_file_may_be_skipped_then_the_next_one_takes_its_place(
    tree: Path, execution: Execution
) -> None:
    broken(tree, 2, 3)  # the images 7 and 8
    files = trained(tree, execution, corrupt="skip", workers=2)
    streamed = part(files)
    [(found_N, _)] = streamed.images([torch.arange(5, 12)])
    assert found_N.tolist() == [5, 6, 9, 9, 9, 10, 11]
    seen = views(files, [7, 8, 9])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[2])
    for number, what in zip((2, 3), sorted(streamed.skipped), strict=True):
        assert f"{WNIDS[1]}_{number}.JPEG" in what


def test_more_images_than_memory_may_hold_are_read_from_their_files_to_the_same_pixels(
    make_folder: MakeFolder, execution: Execution, image_file: ImageFile, tmp_path: Path
) -> None:
    folder = make_folder({"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2}, size=(50, 70))
    in_memory = replace(execution, cache=str(tmp_path / "other"))
    from_files = replace(execution, memory_gb=0.0)
    names = {data.prepare(f"folder:{folder}", execution=each).name for each in (in_memory, from_files)}
    [name] = names
    decoded, streamed = (data.load(name, execution=each) for each in (in_memory, from_files))
    kinds = [type(each.train_images_NCHW) for each in (decoded, streamed)]
    assert kinds == [np.memmap, ImageFiles]
    for augmentation in ("crop-flip-rotate15", "rrc-flip", "none"):
        augment = Augment(augmentation, size=decoded.facts.size, device=CPU)
        batches = torch.split(torch.randperm(12), 5)
        one, other = (
            [
                *part_of(each.train_images_NCHW, each.train_labels_N, CPU).views(
                    batches, augment, stream=1, epoch=1
                )
            ]
            for each in (decoded, streamed)
        )
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first.indices_N, second.indices_N)
            assert torch.equal(first.images_NCHW, second.images_NCHW)
    held = [hold_out(each, 0.25) for each in (decoded, streamed)]
    held_out = [each.val_images_NCHW[:] for each in held if each.val_images_NCHW is not None]
    assert np.array_equal(held_out[0], held_out[1])


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def streaming(tree: Path, execution: Execution) -> Iterator[tuple[Stream, list[int]]]:
    """A stream with two worker processes, and their ids."""
    files = trained(tree, execution, workers=2)
    stream = Stream(files, pin_memory=False)
    next(stream(requests([torch.arange(4)], None)[0]))
    workers = [worker.pid for worker in stream._loader._iterator._workers]  # type: ignore[union-attr]
    yield stream, workers
    del stream


def test_a_worker_that_is_killed_ends_the_run_with_a_reason(streaming: tuple[Stream, list[int]]) -> None:
    stream, workers = streaming

    def go_on() -> None:
        """torch tells of it in a signal handler, wherever this process is."""
        for _ in range(100):
            list(stream(requests([torch.arange(15)], None)[0]))
            time.sleep(0.1)

    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises((RunError, RuntimeError), match=r"DataLoader worker \(pid|decodes images ended"):
        go_on()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_workers_leave_signals_to_the_trainer(
    streaming: tuple[Stream, list[int]], number: signal.Signals
) -> None:
    """A scheduler sends them to all processes of a job; the run then needs its workers for one more step."""
    stream, workers = streaming
    sender = os.fork()
    if sender == 0:  # not the parent of the workers
        for pid in workers:
            os.kill(pid, number)
        os._exit(0)
    os.waitpid(sender, 0)
    time.sleep(0.2)
    assert [len(each.images_NCHW) for each in stream(requests([torch.arange(15)], None)[0])] == [15]


def test_workers_end_with_their_stream(tree: Path, execution: Execution) -> None:
    stream = Stream(trained(tree, execution, workers=2), pin_memory=False)
    next(stream(requests([torch.arange(4)], None)[0]))
    workers = [worker.pid for worker in stream._loader._iterator._workers]  # type: ignore[union-attr]
    del stream
    assert not any(map(running, workers))


def test_images_of_a_png_with_transparency_are_read(tree: Path, execution: Execution) -> None:
    file = tree / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 40), (10, 20, 30, 128)).save(buffer, "PNG")
    file.write_bytes(buffer.getvalue())
    assert trained(tree, execution)[1:2].reshape(3, -1).mean(1).tolist() == [10, 20, 30]
