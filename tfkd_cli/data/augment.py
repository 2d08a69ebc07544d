"""Training images in their views: crop, flip and rotation with the pixels of torchvision's PIL transforms.

A view is a function of (stream, epoch, image index) alone. It does not depend on the batch that the image is
in, on the device, or on what was drawn before. Hence a run resumes at any step, and a teacher's logits can be
cached.

The random numbers are counter based: the finaliser of splitmix64 (Steele, Lea, Flood 2014) over 64-bit
integers, keyed by stream and epoch, counted by image and by the place of the drawn value. A view is a row of
small integers, so a whole epoch is drawn on the device at once, and no step copies anything to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID253  reached through the trainer only, never from the command line
from torch import Tensor  # noqa: TID253

from tfkd_cli.data.facts import AUGMENTATIONS
from tfkd_cli.errors import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tfkd_cli.data.facts import Augmentation, DataSet

__all__ = ["AUGMENTATIONS", "Augment", "Normalise", "rotations"]

ONE = 1 << 16  # PIL rotates in 16.16 fixed point (Pillow, Geometry.c, affine_fixed)
ANGLES = 1 << 16  # angles that are drawn, evenly spaced: at 32 pixels their steps are below 1/1000 pixel
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: splitmix64's increment
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
MASK = (1 << 64) - 1

CROP_SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10


class Normalise:
    """uint8 images (N, C, H, W) as (x/255 − mean) / std per channel: float32, channels_last."""

    def __init__(self, facts: DataSet, *, device: torch.device) -> None:
        # Rows of a whole line of pixels: broadcasting over three channels alone is several times slower.
        scale_C = [1 / (255 * std) for std in facts.std]
        shift_C = [-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)]
        self._scale_R = torch.tensor(scale_C * facts.size, device=device)
        self._shift_R = torch.tensor(shift_C * facts.size, device=device)

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        n, channels, height, width = images_NCHW.shape
        rows_NHR = images_NCHW.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
        rows_NHR.mul_(self._scale_R).add_(self._shift_R)
        return rows_NHR.view(n, height, width, channels).permute(0, 3, 1, 2)


class Augment:
    """A recipe of augmentation for square images of `size` pixels on a device.

    `draw` gives the views, int32 of shape (N, V), and `columns` names their V values. The call then takes
    uint8 images and their views. RequestError for an unknown recipe.
    """

    def __init__(self, recipe_name: str, *, size: int, device: torch.device) -> None:
        self.recipe: Augmentation = AUGMENTATIONS[canonical(recipe_name, AUGMENTATIONS, kind="augmentation")]
        self.size, self._device = size, device
        self._draw_device = torch.device("cpu") if device.type == "mps" else device  # Metal has no float64
        parts = {
            ("top", "left"): bool(self.recipe.padding(size)) or self.recipe.resized_crop,  # of what is shown
            ("flip",): self.recipe.flip,  # 0 or 1
            ("angle",): bool(self.recipe.degrees),  # a place in the table of rotations
            ("height", "width"): self.recipe.resized_crop,  # of the box that is scaled to the whole image
        }
        self.columns = tuple(name for names, present in parts.items() if present for name in names)
        # In degrees, counter-clockwise; in the middles of equal parts of ±recipe.degrees.
        self.degrees_A = np.float64(self.recipe.degrees / ANGLES) * (2.0 * np.arange(ANGLES) + 1 - ANGLES)
        self._rotations_A6 = torch.from_numpy(rotations(self.degrees_A, size)).to(device)

    def draw(self, *, stream: int, epoch: int, indices_N: Tensor) -> Tensor:
        """The views of these images in this epoch; `indices_N`: their places in the whole training set."""
        indices_N = indices_N.to(self._draw_device)
        if not self.columns:
            return indices_N.new_empty(len(indices_N), 0)
        drawn = self._draw_boxes if self.recipe.resized_crop else self._draw_moves
        return drawn(stream, epoch, indices_N).to(self._device, torch.int32)

    def _draw_moves(self, stream: int, epoch: int, indices_N: Tensor) -> Tensor:
        # Every recipe draws the same four values, so that one recipe's flips are another's.
        flip_N, top_N, left_N, angle_N = _random_bits(stream, epoch, indices_N, 4)
        pad = self.recipe.padding(self.size)
        drawn = {
            "top": _integers(top_N, 2 * pad + 1) - pad,
            "left": _integers(left_N, 2 * pad + 1) - pad,
            "flip": _flips(flip_N),
            "angle": _integers(angle_N, ANGLES),
        }
        return torch.stack([drawn[name] for name in self.columns], 1)

    def __call__(self, images_NCHW: Tensor, views_NV: Tensor) -> Tensor:
        """These images in these views: uint8 NCHW, pixel by pixel what torchvision gives of PIL images.

        Random resized crops are the exception: bilinear, computed in float32, not pixel-exact.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"expected uint8 images of {self.size}×{self.size} pixels, "
                f"got {images_NCHW.dtype} of shape {tuple(images_NCHW.shape)}"
            )
        if not self.columns:
            return images_NCHW
        view = {
            name: each.view(-1, 1, 1) for name, each in zip(self.columns, views_NV.unbind(1), strict=True)
        }
        if self.recipe.resized_crop:
            return self._resized_crops(images_NCHW, view)
        source_NHW, inside_NHW = self._sources(view)
        number, channels = images_NCHW.shape[:2]
        source_NCP = source_NHW.view(number, 1, -1).expand(-1, channels, -1)
        seen_NCHW = images_NCHW.reshape(number, channels, -1).gather(2, source_NCP).view(images_NCHW.shape)
        return seen_NCHW.mul_(inside_NHW[:, None])

    def _sources(self, view: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where each output pixel looks: flat index into H·W (0 where outside), and whether it is inside.

        int64 and bool, (N, H, W). From the output backwards: rotation, flip, crop; or flip, rotation.
        """
        size = self.size
        x_NHW = torch.arange(size, dtype=torch.int32, device=self._device).view(1, 1, -1)
        y_NHW = x_NHW.view(1, -1, 1)
        if "flip" in view and self.recipe.rotate_first:
            x_NHW = torch.where(view["flip"] == 1, size - 1 - x_NHW, x_NHW)
        if "angle" in view:
            a, b, c, d, e, f = self._rotations_A6[view["angle"]].unbind(3)
            x_NHW, y_NHW = (a * x_NHW + (b * y_NHW + c)) >> 16, (d * x_NHW + (e * y_NHW + f)) >> 16
        inside_NHW = _within(x_NHW, size) & _within(y_NHW, size)
        if "flip" in view and not self.recipe.rotate_first:
            x_NHW = torch.where(view["flip"] == 1, size - 1 - x_NHW, x_NHW)
        if "top" in view:
            x_NHW, y_NHW = x_NHW + view["left"], y_NHW + view["top"]
            inside_NHW = inside_NHW & _within(x_NHW, size) & _within(y_NHW, size)
        return (y_NHW * size + x_NHW).mul(inside_NHW).long(), inside_NHW

    def _draw_boxes(self, stream: int, epoch: int, indices_N: Tensor) -> Tensor:
        sizes_N = torch.full_like(indices_N, self.size)
        boxes_N4 = crop_boxes(sizes_N, sizes_N, stream=stream, epoch=epoch, indices_N=indices_N)
        top_N, left_N, height_N, width_N = boxes_N4.unbind(1)
        return torch.stack([top_N, left_N, flips(stream, epoch, indices_N), height_N, width_N], 1)

    def _resized_crops(self, images_NCHW: Tensor, view: dict[str, Tensor]) -> Tensor:
        """Each box scaled to the whole image. It only ever grows, so that there is nothing to antialias."""
        size = self.size
        places_S = torch.arange(size, device=self._device) + 0.5

        def source(first: Tensor, length: Tensor) -> Tensor:
            """Where the output looks along one side, in pixels, within the box: shape (N, 1, size)."""
            inner = (places_S * (length / size) - 0.5).clamp_min(0)
            return first + torch.minimum(inner, length - 1)

        x_N1W = source(view["left"], view["width"])
        x_N1W = torch.where(view["flip"] == 1, x_N1W.flip(2), x_N1W)
        y_NH1 = source(view["top"], view["height"]).transpose(1, 2)
        grid_NHW2 = (
            torch.stack([x_N1W.expand(-1, size, -1), y_NH1.expand(-1, -1, size)], 3) * (2 / (size - 1)) - 1
        )
        seen_NCHW = torch.nn.functional.grid_sample(
            images_NCHW.float(), grid_NHW2, padding_mode="border", align_corners=True
        )
        return seen_NCHW.round_().to(torch.uint8)


def crop_boxes(heights_N: Tensor, widths_N: Tensor, *, stream: int, epoch: int, indices_N: Tensor) -> Tensor:
    """Random resized crops of images of these sizes: top, left, height, width; int64 of shape (N, 4).

    The first of ten boxes that fits, or else the largest centred one with an aspect that is allowed, as in
    torchvision's `RandomResizedCrop.get_params`.
    """
    bits_VN = _random_bits(stream, epoch, indices_N, 1 + 4 * CROP_TRIES)
    area_TN, aspect_TN, top_TN, left_TN = (bits_VN[1:].double() * 2.0**-31).view(4, CROP_TRIES, -1)
    area_TN = heights_N * widths_N * (CROP_SCALE[0] + (CROP_SCALE[1] - CROP_SCALE[0]) * area_TN)
    low, high = map(math.log, CROP_ASPECT)
    aspect_TN = torch.exp(low + (high - low) * aspect_TN)
    width_TN, height_TN = (area_TN * aspect_TN).sqrt().round(), (area_TN / aspect_TN).sqrt().round()
    fits_TN = (width_TN > 0) & (width_TN <= widths_N) & (height_TN > 0) & (height_TN <= heights_N)
    first_1N, none_N = fits_TN.int().argmax(0, keepdim=True), ~fits_TN.any(0)
    whole_height_N = torch.minimum(heights_N, (widths_N / CROP_ASPECT[0]).round().long())
    whole_width_N = torch.minimum(widths_N, (heights_N * CROP_ASPECT[1]).round().long())

    def pick(values_TN: Tensor, otherwise_N: Tensor) -> Tensor:
        return torch.where(none_N, otherwise_N, values_TN.floor().long().gather(0, first_1N)[0])

    top_N = pick(top_TN * (heights_N - height_TN + 1), (heights_N - whole_height_N) // 2)
    left_N = pick(left_TN * (widths_N - width_TN + 1), (widths_N - whole_width_N) // 2)
    return torch.stack([top_N, left_N, pick(height_TN, whole_height_N), pick(width_TN, whole_width_N)], 1)


def flips(stream: int, epoch: int, indices_N: Tensor) -> Tensor:
    """Whether each image is flipped in this epoch: 0 or 1, int64 N."""
    return _flips(_random_bits(stream, epoch, indices_N, 1)[0])


def rotations(degrees_N: NDArray[np.float64], size: int) -> NDArray[np.int32]:
    """PIL's inverse matrices (a b c; d e f) in 16.16, shape (N, 6): source x = (a·x + b·y + c) >> 16.

    Counter-clockwise: Image.rotate about the centre, then `affine_fixed`, which looks from a pixel's middle.
    """
    radians_N = -np.deg2rad(degrees_N)
    cos_N, sin_N = np.cos(radians_N), np.sin(radians_N)
    centre = size / 2
    offset_x_N = centre - cos_N * centre - sin_N * centre + (cos_N + sin_N) * 0.5
    offset_y_N = centre + sin_N * centre - cos_N * centre + (cos_N - sin_N) * 0.5
    values_N6 = np.stack([cos_N, sin_N, offset_x_N, -sin_N, cos_N, offset_y_N], 1)
    return np.floor(values_N6 * ONE + 0.5).astype(np.int32)


def _random_bits(stream: int, epoch: int, indices_N: Tensor, count: int) -> Tensor:
    """`count` random numbers of 31 bits for each image, int64, shape (count, N)."""
    key = _mix((_mix((stream + GOLDEN) & MASK) + epoch * GOLDEN) & MASK)
    images_N = _mix_tensor(indices_N.to(torch.int64) * _signed(GOLDEN) + _signed(key))
    places_V1 = torch.arange(1, count + 1, device=indices_N.device)[:, None] * _signed(GOLDEN)
    return (_mix_tensor(images_N + places_V1) >> 33) & ((1 << 31) - 1)


def _integers(bits_N: Tensor, count: int) -> Tensor:
    """Whole numbers 0 … count - 1 of 31 random bits."""
    return (bits_N * count) >> 31


def _flips(bits_N: Tensor) -> Tensor:
    return 1 - _integers(bits_N, 2)


def _mix(value: int) -> int:
    """The finaliser of splitmix64 on one Python integer."""
    for shift, factor in MIX:
        value = ((value ^ (value >> shift)) * factor) & MASK
    return value ^ (value >> 31)


def _mix_tensor(values: Tensor) -> Tensor:
    """The same on int64 tensors, whose products wrap; `>>` copies the sign, so the mask takes it off."""
    for shift, factor in MIX:
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return values ^ ((values >> 31) & ((1 << 33) - 1))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _within(values: Tensor, size: int) -> Tensor:
    return (values >= 0) & (values < size)
