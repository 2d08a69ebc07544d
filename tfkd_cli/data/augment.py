"""A batch of images, each in its own view: crop, flip, rotation, with the pixels torchvision's PIL gives.

A view is a function of (stream, epoch, image index) alone: not of the batch an image is in, nor of the
device, nor of what was drawn before. So a run resumes at any step, and a teacher's answers can be kept.

The random numbers are counter based: `splitmix64`'s finaliser (Steele, Lea, Flood 2014) over 64-bit
integers, keyed by stream and epoch, counted by image and by the place of the drawn value. A whole batch
then needs ONE gather: where each output pixel looks is an integer affine map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch  # noqa: TID253  reached through the trainer only, never from the command line
from torch import Tensor  # noqa: TID253

from tfkd_cli.data.facts import AUGMENTATIONS, Augmentation
from tfkd_cli.errors import canonical

__all__ = ["AUGMENTATIONS", "Views", "apply", "augment", "draw", "normalise"]

ONE = 1 << 16  # PIL rotates in 16.16 fixed point (Pillow, Geometry.c, affine_fixed)
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: splitmix64's increment
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
MASK = (1 << 64) - 1

CROP_SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Views:
    """How each of N images is seen; integers and angles on the device of the indices."""

    recipe: Augmentation
    size: int
    top_N: Tensor | None = None  # int64: row of the source that the first row shows, -pad … pad
    left_N: Tensor | None = None
    flip_N: Tensor | None = None  # bool
    degrees_N: Tensor | None = None  # float64, counter-clockwise as in PIL
    height_N: Tensor | None = None  # int64, a resized crop's box (with top and left)
    width_N: Tensor | None = None

    def to(self, device: torch.device | str) -> Views:
        """The same views on another device (no host sync when they come from the CPU)."""
        names = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor)]
        if torch.device(device).type == "mps" and self.degrees_N is not None:
            raise TypeError("Metal has no float64: leave views on the CPU, `apply` moves what it needs.")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def augment(images_NCHW: Tensor, recipe_name: str, *, stream: int, epoch: int, indices_N: Tensor) -> Tensor:
    """`apply` of `draw`: the uint8 batch (N images, C channels, square) in its views of this epoch."""
    views = draw(recipe_name, stream=stream, epoch=epoch, indices_N=indices_N, size=images_NCHW.shape[-1])
    return apply(images_NCHW, views)


def draw(recipe_name: str, *, stream: int, epoch: int, indices_N: Tensor, size: int) -> Views:
    """The views of these images in this epoch; `indices_N` are positions in the whole training set.

    CPU indices give CPU views; draw on the CPU and let `apply` move them, so that no step waits for a GPU.
    """
    recipe = AUGMENTATIONS[canonical(recipe_name, AUGMENTATIONS, kind="augmentation")]
    if indices_N.device.type == "mps":  # no float64 there
        indices_N = indices_N.cpu()
    if recipe.resized_crop:
        return _draw_boxes(recipe, _uniforms(stream, epoch, indices_N, 1 + 4 * CROP_TRIES), size)
    # Every recipe draws the same four values, so that one recipe's flips are another's.
    flip_N, top_N, left_N, angle_N = _uniforms(stream, epoch, indices_N, 4)
    pad = recipe.padding(size)
    return Views(
        recipe=recipe,
        size=size,
        top_N=_integers(top_N, 2 * pad + 1) - pad if pad else None,
        left_N=_integers(left_N, 2 * pad + 1) - pad if pad else None,
        flip_N=flip_N < 0.5 if recipe.flip else None,
        degrees_N=(angle_N * 2 - 1) * recipe.degrees if recipe.degrees else None,
    )


def apply(images_NCHW: Tensor, views: Views) -> Tensor:
    """The views of these images: uint8 NCHW, the same pixels as torchvision's transforms on PIL images.

    Random resized crops are the exception: bilinear and antialiased by torch, not pixel-exact.
    """
    size = images_NCHW.shape[-1]
    if images_NCHW.dtype != torch.uint8 or images_NCHW.shape[-2:] != (views.size, views.size):
        raise ValueError(f"expected uint8 {views.size}×{views.size}, got {images_NCHW.dtype} {size}")
    if views.height_N is not None:
        return _resized_crops(images_NCHW, views)
    if views.top_N is None and views.flip_N is None and views.degrees_N is None:
        return images_NCHW
    source_NHW, inside_NHW = _sources(views, device=images_NCHW.device)
    number, channels = images_NCHW.shape[:2]
    source_N1P = source_NHW.view(number, 1, -1).expand(-1, channels, -1)
    seen_NCHW = images_NCHW.reshape(number, channels, -1).gather(2, source_N1P).view(images_NCHW.shape)
    return seen_NCHW.mul_(inside_NHW[:, None])


def normalise(
    images_NCHW: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """uint8 images as (x/255 − mean) / std per channel, computed in float32."""
    scale_C = torch.tensor([1 / (255 * s) for s in std], device=images_NCHW.device)
    shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images_NCHW.device)
    if memory_format == torch.channels_last and images_NCHW.device.type == "cpu":
        return _interleaved(images_NCHW, scale_C, shift_C).to(dtype)
    # Planes first, layout last: broadcasting over an inner dimension of three channels is 6 times slower.
    values_NCHW = images_NCHW.float().mul_(scale_C.view(1, -1, 1, 1)).add_(shift_C.view(1, -1, 1, 1))
    return values_NCHW.to(dtype).contiguous(memory_format=memory_format)


def _interleaved(images_NCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """`normalise` straight into channels_last, then whole rows at once: half of its copy's time (seen)."""
    n, channels, height, width = images_NCHW.shape
    values_NHWC = torch.empty(n, height, width, channels)
    for channel in range(channels):
        values_NHWC[..., channel] = images_NCHW[:, channel]
    rows_NHR = values_NHWC.view(n, height, width * channels)
    rows_NHR.mul_(scale_C.repeat(width)).add_(shift_C.repeat(width))
    return values_NHWC.permute(0, 3, 1, 2)


def _mix(value: int) -> int:
    """splitmix64's finaliser on one Python integer."""
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


def _uniforms(stream: int, epoch: int, indices_N: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each image, float64, shape (count, N)."""
    key = _mix((_mix((stream + GOLDEN) & MASK) + epoch * GOLDEN) & MASK)
    images_N = _mix_tensor(indices_N.to(torch.int64) * _signed(GOLDEN) + _signed(key))
    places_V1 = torch.arange(1, count + 1, device=indices_N.device)[:, None] * _signed(GOLDEN)
    bits_VN = (_mix_tensor(images_N + places_V1) >> 11) & ((1 << 53) - 1)
    return bits_VN.double() * 2.0**-53


def _integers(uniforms_N: Tensor, count: int) -> Tensor:
    """Whole numbers 0 … count - 1."""
    return (uniforms_N * count).long()


def _rotations(degrees_N: Tensor, size: int) -> tuple[Tensor, ...]:
    """PIL's inverse matrix (a b c; d e f) in 16.16, int32: source x = (a·x + b·y + c) >> 16.

    Image.rotate about the centre, then `affine_fixed`, which looks from the middle of the pixel.
    """
    radians_N = -torch.deg2rad(degrees_N)
    cos_N, sin_N = radians_N.cos(), radians_N.sin()
    centre = size / 2
    offset_x_N = centre - cos_N * centre - sin_N * centre + (cos_N + sin_N) * 0.5
    offset_y_N = centre + sin_N * centre - cos_N * centre + (cos_N - sin_N) * 0.5
    values = (cos_N, sin_N, offset_x_N, -sin_N, cos_N, offset_y_N)
    return tuple((each * ONE + 0.5).floor().int().view(-1, 1, 1) for each in values)


def _sources(views: Views, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each output pixel looks: flat index into H·W (0 where outside), and whether it is inside.

    int64 and bool, (N, H, W). From the output backwards: rotation, flip, crop; or flip, rotation.
    """
    size = views.size
    x_W = torch.arange(size, dtype=torch.int32, device=device)
    y_H1 = x_W[:, None]
    flip_N = None if views.flip_N is None else views.flip_N.to(device).view(-1, 1, 1)
    if flip_N is not None and views.recipe.rotate_first:
        x_W, flip_N = torch.where(flip_N, size - 1 - x_W, x_W), None
    x_NHW, y_NHW = x_W, y_H1
    if views.degrees_N is not None:
        a, b, c, d, e, f = (each.to(device) for each in _rotations(views.degrees_N, size))
        x_NHW = (a * x_W + (b * y_H1 + c)) >> 16
        y_NHW = (d * x_W + (e * y_H1 + f)) >> 16
    inside_NHW = _within(x_NHW, size) & _within(y_NHW, size)
    if flip_N is not None:
        x_NHW = torch.where(flip_N, size - 1 - x_NHW, x_NHW)
    if views.top_N is not None and views.left_N is not None:
        x_NHW = x_NHW + views.left_N.to(device).int().view(-1, 1, 1)
        y_NHW = y_NHW + views.top_N.to(device).int().view(-1, 1, 1)
        inside_NHW = inside_NHW & _within(x_NHW, size) & _within(y_NHW, size)
    return (y_NHW * size + x_NHW).mul(inside_NHW).long(), inside_NHW


def _within(values: Tensor, size: int) -> Tensor:
    return (values >= 0) & (values < size)


def _draw_boxes(recipe: Augmentation, uniforms_VN: Tensor, size: int) -> Views:
    """The first of ten boxes that fits, as torchvision's RandomResizedCrop; else the whole (square) image."""
    area_TN, aspect_TN, top_TN, left_TN = uniforms_VN[1:].view(4, CROP_TRIES, -1)
    area_TN = size**2 * (CROP_SCALE[0] + (CROP_SCALE[1] - CROP_SCALE[0]) * area_TN)
    low, high = map(math.log, CROP_ASPECT)
    aspect_TN = torch.exp(low + (high - low) * aspect_TN)
    width_TN = (area_TN * aspect_TN).sqrt().round().long()
    height_TN = (area_TN / aspect_TN).sqrt().round().long()
    fits_TN = _within(width_TN - 1, size) & _within(height_TN - 1, size)
    first_1N = fits_TN.int().argmax(0, keepdim=True)
    none_N = ~fits_TN.any(0)

    def pick(values_TN: Tensor, otherwise: int) -> Tensor:
        return values_TN.gather(0, first_1N)[0].masked_fill(none_N, otherwise)

    return Views(
        recipe=recipe,
        size=size,
        flip_N=uniforms_VN[0] < 0.5,
        top_N=pick((top_TN * (size - height_TN + 1)).long(), 0),
        left_N=pick((left_TN * (size - width_TN + 1)).long(), 0),
        height_N=pick(height_TN, size),
        width_N=pick(width_TN, size),
    )


def _resized_crops(images_NCHW: Tensor, views: Views) -> Tensor:
    assert views.top_N is not None and views.left_N is not None and views.flip_N is not None  # noqa: PT018
    assert views.height_N is not None and views.width_N is not None  # noqa: PT018
    boxes = zip(
        *(each.tolist() for each in (views.top_N, views.left_N, views.height_N, views.width_N)), strict=True
    )
    crops = [
        torch.nn.functional.interpolate(
            image[None, :, top : top + height, left : left + width].float(),
            size=(views.size, views.size),
            mode="bilinear",
            antialias=True,
        )
        for image, (top, left, height, width) in zip(images_NCHW, boxes, strict=True)
    ]
    seen_NCHW = torch.cat(crops).round_().clamp_(0, 255).to(torch.uint8)
    flip_N111 = views.flip_N.to(images_NCHW.device).view(-1, 1, 1, 1)
    return torch.where(flip_N111, seen_NCHW.flip(3), seen_NCHW)
