"""The views of images: torchvision's pixels, and randomness that depends on (stream, epoch, image) alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as pil

from tfkd_cli.data.augment import ANGLES, AUGMENTATIONS, Augment, Normalise
from tfkd_cli.data.facts import Augmentation
from tfkd_cli.errors import RequestError

CPU = torch.device("cpu")
PINNED = [[4, 0, 0], [0, -3, -3], [0, 0, 0], [47199, 27271, 31293]]
"""Top, left, flip and angle of three images."""


def some_images(number: int, channels: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """Random pixels, 1 … 255: a zero in a view can only come from filling."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (number, channels, size, size), generator=generator, dtype=torch.uint8)


def drawn(recipe: str, number: int, *, stream: int = 0, epoch: int = 0) -> dict[str, torch.Tensor]:
    """The views of the first images of an epoch, by the names of their values."""
    augment = Augment(recipe, size=32, device=CPU)
    views_NV = augment.draw(stream=stream, epoch=epoch, indices_N=torch.arange(number))
    return dict(zip(augment.columns, views_NV.long().unbind(1), strict=True))


def picture(image_CHW: torch.Tensor) -> Image.Image:
    array = image_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.atleast_3d(np.asarray(image))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def with_torchvision(image_CHW: torch.Tensor, augment: Augment, view: dict[str, int]) -> torch.Tensor:
    """One image in its view, by the transforms that the released code uses, in its order."""
    size, pad = augment.size, augment.recipe.padding(augment.size)

    def crop(image: Image.Image) -> Any:
        return pil.crop(pil.pad(image, [pad], fill=0), view["top"] + pad, view["left"] + pad, size, size)

    def flip(image: Image.Image) -> Any:
        return pil.hflip(image) if view["flip"] else image

    def rotate(image: Image.Image) -> Any:
        degrees = float(augment.degrees_A[view["angle"]])
        return pil.rotate(image, degrees, interpolation=InterpolationMode.NEAREST, fill=0)

    transforms = {"top": crop, "flip": flip, "angle": rotate}
    image = picture(image_CHW)
    for name in ("angle", "flip") if augment.recipe.rotate_first else ("top", "flip", "angle"):
        image = transforms[name](image) if name in view else image
    return pixels(image)


def assert_same_pixels(augment: Augment, images_NCHW: torch.Tensor, views_NV: torch.Tensor) -> None:
    expected = [
        with_torchvision(image_CHW, augment, dict(zip(augment.columns, view, strict=True)))
        for image_CHW, view in zip(images_NCHW, views_NV.tolist(), strict=True)
    ]
    torch.testing.assert_close(augment(images_NCHW, views_NV), torch.stack(expected), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["none", "shift", "crop-flip", "crop-flip-rotate15", "flip-rotate20"])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3), (33, 1)])
def test_a_view_has_the_pixels_torchvision_gives(recipe: str, size: int, channels: int) -> None:
    augment = Augment(recipe, size=size, device=CPU)
    views_NV = augment.draw(stream=3, epoch=7, indices_N=torch.arange(200))
    assert_same_pixels(augment, some_images(200, channels, size), views_NV)


@pytest.mark.parametrize("size", [28, 32, 45])
def test_rotations_by_angles_over_the_whole_circle_have_the_pixels_of_pil(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    circle = Augmentation(what="turn", degrees=180 * ANGLES / (ANGLES - 1))
    monkeypatch.setitem(AUGMENTATIONS, "circle", circle)
    augment = Augment("circle", size=size, device=CPU)
    places = np.searchsorted(augment.degrees_A, [-180, -90, -45, -30, 0, 1e-6, 30, 45, 60, 90, 135, 180])
    views_NV = torch.from_numpy(places.clip(0, ANGLES - 1))[:, None].int()
    assert_same_pixels(augment, some_images(len(places), 3, size), views_NV)


@pytest.mark.parametrize("recipe", sorted(AUGMENTATIONS))
def test_a_view_does_not_depend_on_the_batch_it_is_in(recipe: str) -> None:
    images_NCHW, mixed_N = some_images(40, 3, 32), torch.tensor([31, 4, 17])
    augment = Augment(recipe, size=32, device=CPU)
    together_NV, alone_NV = (
        augment.draw(stream=1, epoch=2, indices_N=each) for each in (torch.arange(40), mixed_N)
    )
    assert torch.equal(alone_NV, together_NV[mixed_N])
    assert torch.equal(augment(images_NCHW[mixed_N], alone_NV), augment(images_NCHW, together_NV)[mixed_N])


@pytest.mark.parametrize("change", [{"stream": 1}, {"epoch": 1}, {"stream": 1, "epoch": -1}])
def test_another_stream_or_epoch_gives_other_views(change: dict[str, int]) -> None:
    here, there = drawn("crop-flip-rotate15", 100), drawn("crop-flip-rotate15", 100, **change)
    assert int((here["angle"] == there["angle"]).sum()) <= 1


def test_drawn_values_are_the_same_for_ever() -> None:
    """Published results rest on these: a change here must raise the trainer version."""
    augment = Augment("crop-flip-rotate15", size=32, device=CPU)
    views_NV = augment.draw(stream=5, epoch=9, indices_N=torch.tensor([0, 1, 49_999]))
    assert augment.columns == ("top", "left", "flip", "angle")
    assert views_NV.T.tolist() == PINNED
    assert augment.degrees_A[PINNED[3]].tolist() == pytest.approx([6.606, -2.516, -0.675], abs=1e-3)


def test_each_of_the_162_crops_and_flips_is_equally_likely() -> None:
    view = drawn("crop-flip", 162_000)
    kind_N = ((view["top"] + 4) * 9 + view["left"] + 4) * 2 + view["flip"]
    counts = torch.bincount(kind_N, minlength=162).double()
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert 100 < chi_squared < 240  # 161 degrees of freedom: 161 ± 4.4 standard deviations


def test_angles_are_uniform_and_unrelated_to_neighbours_epochs_and_flips() -> None:
    here, there = (drawn("crop-flip-rotate15", 50_000, epoch=epoch) for epoch in (1, 2))
    angle_N = here["angle"].double()
    counts = torch.histc(angle_N, bins=32, min=0, max=ANGLES)
    assert float(((counts - 50_000 / 32) ** 2 / (50_000 / 32)).sum()) < 68  # 31 degrees of freedom
    for other_N in (angle_N.roll(1), there["angle"].double(), here["flip"].double()):
        assert abs(float(torch.corrcoef(torch.stack([angle_N, other_N]))[0, 1])) < 0.025  # 5.6 / sqrt(50,000)


def test_angles_lie_evenly_within_the_recipes_range() -> None:
    degrees_A = Augment("flip-rotate20", size=32, device=CPU).degrees_A
    assert degrees_A[0] == -degrees_A[-1] == pytest.approx(-20, abs=1e-3)
    np.testing.assert_allclose(np.diff(degrees_A), 40 / ANGLES)


def test_over_epochs_one_image_gets_every_crop() -> None:
    tops = {int(drawn("crop-flip", 1, epoch=epoch)["top"][0]) for epoch in range(100)}
    assert tops == set(range(-4, 5))


def test_no_augmentation_gives_the_very_images() -> None:
    images_NCHW, augment = some_images(4, 1, 28), Augment("none", size=28, device=CPU)
    views_NV = augment.draw(stream=0, epoch=0, indices_N=torch.arange(4))
    assert augment(images_NCHW, views_NV) is images_NCHW


def test_a_shift_moves_by_at_most_two_pixels_and_does_nothing_else() -> None:
    view = drawn("shift", 1000)
    assert list(view) == ["top", "left"]
    assert set(view["top"].tolist()) == {-2, -1, 0, 1, 2}


def test_padding_grows_with_larger_images() -> None:
    assert [AUGMENTATIONS["crop-flip"].padding(size) for size in (28, 32, 64, 224)] == [4, 4, 8, 28]


def test_a_resized_crop_is_the_box_scaled_by_torchvision_within_one_grey_level() -> None:
    images_NCHW, augment = some_images(64, 3, 32), Augment("rrc-flip", size=32, device=CPU)
    views_NV = augment.draw(stream=0, epoch=0, indices_N=torch.arange(64))
    for image_CHW, seen_CHW, view in zip(
        images_NCHW, augment(images_NCHW, views_NV), views_NV.tolist(), strict=True
    ):
        top, left, flipped, height, width = view
        expected_CHW = pil.resized_crop(image_CHW, top, left, height, width, [32, 32], antialias=True)
        expected_CHW = pil.hflip(expected_CHW) if flipped else expected_CHW
        assert (seen_CHW.int() - expected_CHW.int()).abs().max() <= 1


def test_boxes_of_resized_crops_have_the_areas_and_shapes_of_torchvisions() -> None:
    view = drawn("rrc-flip", 4000)
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    for ours_N, theirs_N in (
        (view["height"] * view["width"], theirs[:, 2] * theirs[:, 3]),
        (view["top"], theirs[:, 0]),
    ):
        spread = float(theirs_N.double().std())
        assert float(ours_N.double().mean()) == pytest.approx(
            float(theirs_N.double().mean()), abs=spread / 10
        )
        assert float(ours_N.double().std()) == pytest.approx(spread, rel=0.05)
    assert bool((view["top"] + view["height"] <= 32).all())
    assert bool((view["left"] + view["width"] <= 32).all())


def test_a_box_of_the_whole_image_leaves_its_pixels_as_they_are() -> None:
    images_NCHW, augment = some_images(1, 3, 32), Augment("rrc-flip", size=32, device=CPU)
    view = {"top": 0, "left": 0, "flip": 1, "height": 32, "width": 32}
    views_NV = torch.tensor([[view[name] for name in augment.columns]], dtype=torch.int32)
    torch.testing.assert_close(augment(images_NCHW, views_NV), images_NCHW.flip(3))


def test_normalised_pixels_are_those_of_totensor_and_normalize() -> None:
    images_NCHW, mean, std = some_images(3, 3, 32), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    facts: Any = SimpleNamespace(mean=mean, std=std, size=32)
    normal_NCHW = Normalise(facts, device=CPU)(images_NCHW)
    expected = torch.stack([pil.normalize(pil.to_tensor(picture(each)), mean, std) for each in images_NCHW])
    torch.testing.assert_close(normal_NCHW, expected.to(memory_format=torch.channels_last))
    assert normal_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_an_unknown_augmentation_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r'unknown augmentation "crop-flop"(.|\n)*crop-flip'):
        Augment("crop-flop", size=32, device=CPU)


def test_images_of_another_size_are_refused() -> None:
    augment = Augment("crop-flip", size=32, device=CPU)
    views_NV = augment.draw(stream=0, epoch=0, indices_N=torch.arange(2))
    with pytest.raises(ValueError, match="32×32"):
        augment(some_images(2, 3, 28), views_NV)
