"""The views of a batch: torchvision's pixels, and randomness that depends on (stream, epoch, image) alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from tfkd_cli.data.augment import AUGMENTATIONS, Views, apply, augment, draw, normalise
from tfkd_cli.data.facts import Augmentation
from tfkd_cli.errors import RequestError

# top, left, flip, degrees of three images
PINNED: list[list[float]] = [
    [4, 0, 0],
    [0, -3, -3],
    [False, False, False],
    [6.606048503848636, -2.5158728213752513, -0.6748586742736273],
]
GATHERED = ("none", "shift", "crop-flip", "crop-flip-rotate15", "flip-rotate20")


def some_images(number: int, channels: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """Random pixels, 1 … 255: a zero in a view can only come from filling."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (number, channels, size, size), generator=generator, dtype=torch.uint8)


def picture(image_CHW: torch.Tensor) -> Image.Image:
    array = image_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.atleast_3d(np.asarray(image))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def crop(image: Image.Image, views: Views, i: int) -> Image.Image:
    if views.top_N is None or views.left_N is None:
        return image
    pad = views.recipe.padding(views.size)
    top, left = int(views.top_N[i]) + pad, int(views.left_N[i]) + pad
    cropped: Image.Image = pil.crop(pil.pad(image, [pad], fill=0), top, left, views.size, views.size)
    return cropped


def flip(image: Image.Image, views: Views, i: int) -> Image.Image:
    flipped: Image.Image = pil.hflip(image)
    return flipped if views.flip_N is not None and views.flip_N[i] else image


def rotate(image: Image.Image, views: Views, i: int) -> Image.Image:
    if views.degrees_N is None:
        return image
    degrees = float(views.degrees_N[i])
    rotated: Image.Image = pil.rotate(image, degrees, interpolation=InterpolationMode.NEAREST, fill=0)
    return rotated


def assert_same_pixels(images_NCHW: torch.Tensor, views: Views) -> None:
    expected = with_torchvision(images_NCHW, views)
    torch.testing.assert_close(apply(images_NCHW, views), expected, rtol=0, atol=0)


def with_torchvision(images_NCHW: torch.Tensor, views: Views) -> torch.Tensor:
    """The same views, one image at a time, by the transforms the released code uses, in its order."""
    order = (rotate, flip) if views.recipe.rotate_first else (crop, flip, rotate)
    seen = []
    for i, image_CHW in enumerate(images_NCHW):
        image = picture(image_CHW)
        for transform in order:
            image = transform(image, views, i)
        seen.append(pixels(image))
    return torch.stack(seen)


@pytest.mark.parametrize("recipe", GATHERED)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3), (33, 1)])
def test_a_view_has_the_pixels_torchvision_gives(recipe: str, size: int, channels: int) -> None:
    images_NCHW = some_images(200, channels, size)
    views = draw(recipe, stream=3, epoch=7, indices_N=torch.arange(200), size=size)
    torch.testing.assert_close(
        apply(images_NCHW, views), with_torchvision(images_NCHW, views), rtol=0, atol=0
    )


@pytest.mark.parametrize("size", [28, 32, 45])
def test_special_angles_have_the_pixels_of_pil_too(size: int) -> None:
    degrees_N = torch.tensor(
        [0.0, 1e-14, 1e-6, 30.0, 45.0, 60.0, 90.0, 135.0, 180.0, 270.0, 359.999, -90.0, -0.0, 720.0],
        dtype=torch.float64,
    )
    images_NCHW = some_images(len(degrees_N), 3, size)
    views = Views(recipe=Augmentation(what="turn", degrees=180.0), size=size, degrees_N=degrees_N)
    torch.testing.assert_close(
        apply(images_NCHW, views), with_torchvision(images_NCHW, views), rtol=0, atol=0
    )


def test_five_hundred_evenly_spaced_angles_have_the_pixels_of_pil() -> None:
    images_NCHW = some_images(500, 1, 32)
    degrees_N = torch.linspace(-20, 20, 500, dtype=torch.float64)
    views = Views(recipe=Augmentation(what="turn", degrees=20.0), size=32, degrees_N=degrees_N)
    torch.testing.assert_close(
        apply(images_NCHW, views), with_torchvision(images_NCHW, views), rtol=0, atol=0
    )


@pytest.mark.parametrize("recipe", sorted(AUGMENTATIONS))
def test_a_view_does_not_depend_on_the_batch_it_is_in(recipe: str) -> None:
    images_NCHW = some_images(40, 3, 32)
    together = augment(images_NCHW, recipe, stream=1, epoch=2, indices_N=torch.arange(40))
    mixed_N = torch.tensor([31, 4, 17])
    alone = augment(images_NCHW[mixed_N], recipe, stream=1, epoch=2, indices_N=mixed_N)
    torch.testing.assert_close(alone, together[mixed_N], rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"stream": 1}, {"epoch": 1}, {"stream": 1, "epoch": -1}])
def test_another_stream_or_epoch_gives_other_views(change: dict[str, int]) -> None:
    first = {"stream": 0, "epoch": 0}
    indices_N = torch.arange(100)
    here = draw("crop-flip-rotate15", **first, indices_N=indices_N, size=32)
    there = draw("crop-flip-rotate15", **{**first, **change}, indices_N=indices_N, size=32)
    assert here.degrees_N is not None
    assert there.degrees_N is not None
    assert not torch.isclose(here.degrees_N, there.degrees_N).any()


def test_drawn_values_are_the_same_for_ever() -> None:
    """Published results rest on these: a change here must raise the trainer version."""
    views = draw("crop-flip-rotate15", stream=5, epoch=9, indices_N=torch.tensor([0, 1, 49_999]), size=32)
    drawn = [None if each is None else each.tolist() for each in (views.top_N, views.left_N, views.flip_N)]
    assert drawn == PINNED[:3]
    assert views.degrees_N is not None
    assert views.degrees_N.tolist() == pytest.approx(PINNED[3], abs=1e-12)


def test_each_of_the_162_crops_and_flips_is_equally_likely() -> None:
    views = draw("crop-flip", stream=0, epoch=0, indices_N=torch.arange(162_000), size=32)
    assert views.top_N is not None
    assert views.left_N is not None
    assert views.flip_N is not None
    kind_N = ((views.top_N + 4) * 9 + views.left_N + 4) * 2 + views.flip_N
    counts = torch.bincount(kind_N, minlength=162).double()
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert 100 < chi_squared < 240  # 161 degrees of freedom: 161 ± 4.4 standard deviations


def test_angles_are_uniform_and_unrelated_to_neighbours_epochs_and_flips() -> None:
    def drawn(epoch: int) -> Views:
        return draw("crop-flip-rotate15", stream=0, epoch=epoch, indices_N=torch.arange(50_000), size=32)

    here, there = drawn(1), drawn(2)
    assert here.degrees_N is not None
    assert there.degrees_N is not None
    assert here.flip_N is not None
    angles = here.degrees_N
    counts = torch.histc(angles, bins=30, min=-15, max=15)
    assert float(((counts - 50_000 / 30) ** 2 / (50_000 / 30)).sum()) < 65  # 29 degrees of freedom
    for other in (angles.roll(1), there.degrees_N, here.flip_N.double()):
        assert abs(float(torch.corrcoef(torch.stack([angles, other]))[0, 1])) < 0.025  # 5.6 / sqrt(50,000)


def test_over_epochs_one_image_gets_every_crop() -> None:
    tops = {
        int(top)
        for epoch in range(100)
        if (top := draw("crop-flip", stream=0, epoch=epoch, indices_N=torch.tensor([7]), size=32).top_N)
        is not None
    }
    assert tops == set(range(-4, 5))


def test_no_augmentation_gives_the_very_images() -> None:
    images_NCHW = some_images(4, 1, 28)
    assert augment(images_NCHW, "none", stream=0, epoch=0, indices_N=torch.arange(4)) is images_NCHW


def test_a_shift_moves_by_at_most_two_pixels() -> None:
    views = draw("shift", stream=0, epoch=0, indices_N=torch.arange(1000), size=32)
    assert views.flip_N is None
    assert views.degrees_N is None
    assert views.top_N is not None
    assert set(views.top_N.tolist()) == {-2, -1, 0, 1, 2}


def test_padding_grows_with_larger_images() -> None:
    assert [AUGMENTATIONS["crop-flip"].padding(size) for size in (28, 32, 64, 224)] == [4, 4, 8, 28]


def test_a_resized_crop_is_a_part_of_the_image_in_its_own_range() -> None:
    images_NCHW = torch.full((64, 3, 48, 48), 200, dtype=torch.uint8)
    views = draw("rrc-flip", stream=0, epoch=0, indices_N=torch.arange(64), size=48)
    assert views.height_N is not None
    assert views.width_N is not None
    share_N = views.height_N * views.width_N / 48**2
    assert float(share_N.min()) > 0.06
    assert float(share_N.max()) <= 1
    assert (apply(images_NCHW, views) == 200).all()


def test_a_resized_crop_that_never_fits_is_the_whole_image() -> None:
    images_NCHW = some_images(1, 3, 32)
    box = dict.fromkeys(("top_N", "left_N"), torch.tensor([0]))
    whole = dict.fromkeys(("height_N", "width_N"), torch.tensor([32]))
    views = Views(recipe=AUGMENTATIONS["rrc-flip"], size=32, flip_N=torch.tensor([True]), **box, **whole)
    torch.testing.assert_close(apply(images_NCHW, views), images_NCHW.flip(3))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalised_pixels_are_those_of_totensor_and_normalize(memory_format: torch.memory_format) -> None:
    images_NCHW = some_images(3, 3, 32)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    normal = normalise(images_NCHW, mean, std, memory_format=memory_format)
    expected = torch.stack([pil.normalize(pil.to_tensor(picture(each)), mean, std) for each in images_NCHW])
    torch.testing.assert_close(normal, expected.to(memory_format=memory_format))
    assert normal.is_contiguous(memory_format=memory_format)


def test_normalise_gives_the_asked_precision() -> None:
    assert normalise(some_images(1, 1, 28), (0.5,), (0.5,), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_an_unknown_augmentation_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r'unknown augmentation "crop-flop"(.|\n)*crop-flip'):
        draw("crop-flop", stream=0, epoch=0, indices_N=torch.arange(1), size=32)


def test_views_of_another_size_are_refused() -> None:
    views = draw("crop-flip", stream=0, epoch=0, indices_N=torch.arange(2), size=32)
    with pytest.raises(ValueError, match="32×32"):
        apply(some_images(2, 3, 28), views)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("recipe", sorted(AUGMENTATIONS))
def test_a_gpu_gives_the_same_pixels(recipe: str) -> None:
    images_NCHW, indices_N = some_images(64, 3, 32), torch.arange(64)
    views = draw(recipe, stream=0, epoch=0, indices_N=indices_N, size=32)
    on_gpu = apply(images_NCHW.cuda(), views.to("cuda")).cpu()
    tolerance = 1 if AUGMENTATIONS[recipe].resized_crop else 0
    torch.testing.assert_close(on_gpu, apply(images_NCHW, views), rtol=0, atol=tolerance)


def test_views_move_as_a_whole() -> None:
    views = draw("crop-flip-rotate15", stream=0, epoch=0, indices_N=torch.arange(2), size=32)
    moved = views.to("cpu")
    assert dataclasses.asdict(moved).keys() == dataclasses.asdict(views).keys()
