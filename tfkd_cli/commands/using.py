"""`tfkd predict` and `tfkd export`: a finished run's student on other images, and in other programs."""

from __future__ import annotations

import importlib
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkd_cli import console
from tfkd_cli.commands import session
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import JsonOption, Run, StoreOptions, completing
from tfkd_cli.store import files as store_files

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 64  # images at once
FORMATS = ("torchscript", "onnx")

Format = Annotated[
    str,
    typer.Option(
        "--format", help="The kind of file.", metavar="torchscript|onnx",
        autocompletion=completing(lambda: FORMATS),
    ),
]  # fmt: skip


def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")
    ],
    run: Annotated[
        str,
        typer.Option(
            "--run",
            help="A finished run's key or folder.",
            metavar="RUN",
            autocompletion=completing(runs=True),
        ),
    ],
    store: StoreOptions,
    output: JsonOption,
) -> int:
    """Predict the class of each image with a run's student and the run's own preprocessing.

    Example: tfkd predict --run 3f2a holiday/*.jpg
    """
    saved = _student(session.open_folder(store, "weights").find(run).weights("student.pt"))
    files = _files(images)
    probabilities_NK = _probabilities(saved, files)
    names = saved["class_names"]
    highest_N, classes_N = probabilities_NK.max(1)
    rows: list[dict[str, Any]] = [
        {"image": str(file), "class": names[place], "probability": round(highest, 6)}
        for file, place, highest in zip(files, classes_N.tolist(), highest_N.tolist(), strict=True)
    ]
    if output.json:
        for row, row_K in zip(rows, probabilities_NK.tolist(), strict=True):
            row["probabilities"] = dict(zip(names, (round(each, 6) for each in row_K), strict=True))
        console.print_json(rows)
    else:
        shown = [(row["image"], row["class"], f"{100 * row['probability']:.1f}") for row in rows]
        console.show(console.simple_table(("image", "class", "%"), shown))
    return 0


def export(
    run: Run,
    store: StoreOptions,
    as_format: Format = "torchscript",
    to: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write. [default: RUN.pt or RUN.onnx, here]", metavar="FILE"),
    ] = None,
) -> int:
    """Export a run's student for other programs: pixel values 0 to 255 in, class probabilities out.

    Example: tfkd export 3f2a --format onnx --out student.onnx
    """
    import torch

    form = canonical(as_format, FORMATS, kind="format")
    folder = session.open_folder(store, "weights").find(run)
    saved = _student(folder.weights("student.pt"))
    file = to or Path(f"{folder.name}.{'pt' if form == 'torchscript' else 'onnx'}")
    if os.path.lexists(file):
        raise RequestError(f"{file} exists.", expected="a new file.", hint="--out OTHER-FILE")
    example_NCHW = torch.zeros(2, saved["channels"], saved["size"], saved["size"])
    student = _with_preprocessing(saved)
    if form == "torchscript":
        with warnings.catch_warnings():
            # torch advises torch.export, whose files only torch of about the same version reads.
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            traced = torch.jit.trace(student, example_NCHW)  # type: ignore[no-untyped-call]
            # Into memory first: where a disk is full, torch ends the process.
            torch.jit.save(traced, data := io.BytesIO())
        store_files.write_atomic(file, data.getvalue())
    else:
        _export_onnx(student, example_NCHW, file)
    print(file)
    console.say(
        f"Input: images N×{saved['channels']}×{saved['size']}×{saved['size']}, values 0 to 255. "
        f"Output: N×{saved['classes']} probabilities of {', '.join(saved['class_names'])}."
    )
    return 0


def _export_onnx(student: nn.Module, example_NCHW: Tensor, file: Path) -> None:
    import torch

    try:
        importlib.import_module("onnxscript")  # which torch imports when it is too late for a clear error
        program = torch.onnx.export(
            student, (example_NCHW,), input_names=["images"], output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("images")},), dynamo=True, verbose=False,
        )  # fmt: skip
    except ImportError as error:
        raise RequestError(
            f"--format onnx needs the package {error.name}, which is not installed.",
            expected="onnx and onnxscript, an optional extra of tfkd.",
            hint="pip install 'tfkd[onnx]'",
        ) from error
    assert program is not None
    program.save(str(file))


def _files(given: list[Path]) -> list[Path]:
    """These files, folders replaced by the image files in them."""
    from tfkd_cli.data.survey import images_below

    found: list[Path] = []
    for path in given:
        inside = images_below(path) if path.is_dir() else [path]
        if not inside:
            raise RequestError(f"{path} holds no image.", expected="image files.", hint="tfkd predict --help")
        found += inside
    return found


def _student(path: Path) -> dict[str, Any]:
    """student.pt, its network built and its weights loaded: under "network"."""
    import torch

    from tfkd_cli import models

    saved: dict[str, Any] = torch.load(path, weights_only=True)
    network = models.build(
        saved["network"], classes=saved["classes"], channels=saved["channels"], size=saved["size"]
    )
    network.load_state_dict(saved["weights"])
    return {**saved, "network": network.eval()}


def _with_preprocessing(saved: dict[str, Any]) -> nn.Module:
    """A module from pixel values 0 to 255, shape (N, C, H, W), to probabilities (N, K)."""
    import torch

    class Student(torch.nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = saved["network"]
            for name in ("mean", "std"):
                self.register_buffer(name, 255 * torch.tensor(saved[name]).view(1, -1, 1, 1))

        def forward(self, images_NCHW: Tensor) -> Tensor:
            logits_NK: Tensor = self.network((images_NCHW.float() - self.mean) / self.std)
            return logits_NK.softmax(1)

    return Student().eval()


def _probabilities(saved: dict[str, Any], files: list[Path]) -> Tensor:
    """Probabilities, shape (N, K), of these files; RequestError that names all that cannot be read."""
    import numpy as np
    import torch

    from tfkd_cli.data.files import read_file
    from tfkd_cli.data.images import Look, decode, levels_of, naming_all, parallel, read_header

    student = _with_preprocessing(saved)
    known = {kind: (kind, *levels) for kind, *levels in saved.get("levels", ())}
    look = Look(saved["size"], saved["channels"])

    def header(file: Path) -> Any:
        return read_header(read_file(file), name=str(file))

    def one(file: Path) -> Any:
        return decode(read_file(file), look, name=str(file))

    with naming_all(files, one), torch.inference_mode():
        headers = [each for block in parallel(header, files) for each in block]
        found = {levels[0]: levels for levels in levels_of(headers)}  # of kinds that no training image had
        look = Look(saved["size"], saved["channels"], tuple((found | known).values()))
        decoded = [image for block in parallel(one, files) for image in block]
        parts = [
            student(torch.from_numpy(np.stack(decoded[start : start + BATCH])))
            for start in range(0, len(decoded), BATCH)
        ]
    return torch.cat(parts)
