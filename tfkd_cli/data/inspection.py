"""What a user should know of own images before believing a number: imbalance, leaks, blank images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.layout import IN_WORDS, Layout
from tfkd_cli.data.near import near_identical
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

FLAT_RANGE, FLAT_STD = 16, 2.0  # grey levels of 255: an image below one of them, in each channel, is blank
BLOCK = 256  # images looked at together
IMBALANCED = 1.5  # largest class over smallest


def of_decoded(draft: Draft, layout: Layout, parts: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Sentences on near-identical images in two parts, and on nearly constant ones.

    RequestError when every image is blank: nothing can be learnt from them.
    """
    notes = []
    # a part of fewer images is looked up in the larger one: test in train, val in train, test in val
    for known, asked in combinations(sorted(parts, key=("train", "val", "test").index), 2):
        images, others = draft.images(asked), draft.images(known)
        found = near_identical(images[..., ::-1], others) | near_identical(images, others)  # mirrored, too
        if found:
            here, there = min(found.items())
            first, other = layout.files[parts[asked][here]], layout.files[parts[known][there]]
            notes.append(
                f"WARNING: {len(found):,} of {len(parts[asked]):,} {IN_WORDS[asked]} images are "
                f"near-identical to {IN_WORDS[known]} images, or to their mirror images (the first: "
                f"{first!r}, {other!r})"
            )
    return (*notes, *_of_blank(draft, layout, parts))


def _of_blank(draft: Draft, layout: Layout, parts: Mapping[str, Sequence[int]]) -> list[str]:
    blank = [
        positions[here] for part, positions in parts.items() for here in nearly_constant(draft.images(part))
    ]
    if len(blank) == len(layout.files):
        raise RequestError(
            f"all {len(blank):,} images of {str(layout.root)!r} are nearly of one colour once decoded.",
            expected="images with something to see in them.",
            hint=f"look at {layout.files[0]!r}. Colours of more than 8 bits, values 0 and 1 where white is "
            "255, and white drawings on a transparent ground must be converted first.",
        )
    of_class, files = Counter(layout.labels), defaultdict[int, list[str]](list)
    for position in sorted(blank):
        files[layout.labels[position]].append(layout.files[position])
    return [
        f"WARNING: {len(found):,} of {of_class[label]:,} images of {layout.classes[label]!r} are nearly of "
        f"one colour once decoded ({', '.join(map(repr, found[:3]))}): look at them"
        for label, found in sorted(files.items())
    ]


def nearly_constant(images_NCHW: NDArray[uint8]) -> list[int]:
    """Positions of images in which no channel varies: nothing is to be seen in them."""
    import numpy as np

    found: list[int] = []
    for start in range(0, len(images_NCHW), BLOCK):
        block_NCHW = images_NCHW[start : start + BLOCK]
        pixels_NCP = block_NCHW.reshape(*block_NCHW.shape[:2], -1)
        flat_N = (np.ptp(pixels_NCP, axis=2).max(axis=1) < FLAT_RANGE) | (
            pixels_NCP.std(axis=2, dtype=np.float32).max(axis=1) < FLAT_STD
        )
        found += (np.flatnonzero(flat_N) + start).tolist()
    return found


def of_counts(layout: Layout, parts: Mapping[str, Sequence[int]]) -> str:
    """What was found, and what one image of the test part weighs."""
    shown = [name if name.isprintable() else repr(name) for name in layout.classes[:6]]
    names = ", ".join(shown) + (" …" if len(layout.classes) > 6 else "")
    counts = ", ".join(f"{len(parts[part]):,} {name}" for part, name in IN_WORDS.items() if part in parts)
    return (
        f"{len(layout.files):,} images of {len(layout.classes)} classes ({names}): {counts}; "
        f"one test image is {100 / len(parts['test']):.2f} points"
    )


def of_labels(layout: Layout, parts: Mapping[str, Sequence[int]], hashes: Sequence[bytes]) -> tuple[str, ...]:
    """Sentences on classes of unequal size, and on files that lie in two classes at once."""
    notes = []
    counted = Counter(layout.labels[position] for position in parts["train"])
    counts = {name: counted[label] for label, name in enumerate(layout.classes)}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] >= IMBALANCED * counts[least]:
        notes.append(
            f"classes are imbalanced: {counts[least]:,} training images of {least!r}, "
            f"{counts[most]:,} of {most!r}"
        )
    first: dict[bytes, int] = {}
    both = [
        (other, here)
        for here, content_hash in enumerate(hashes)
        if layout.labels[other := first.setdefault(content_hash, here)] != layout.labels[here]
    ]
    if both:
        files = [layout.files[position] for position in both[0]]
        named = f"the first: {files[0]!r}, {files[1]!r}"
        notes.append(f"WARNING: the same image in two classes: {len(both):,} ({named})")
    return tuple(notes)
