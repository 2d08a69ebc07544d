"""A table on ImageNet at quick scale, from a folder to the table and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests import imagenet_folder
from tests.imagenet_folder import WNIDS
from tfkd_cli.__main__ import main


def test_table8_at_quick_scale_goes_from_a_folder_to_the_table_and_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = imagenet_folder.make(tmp_path / "ILSVRC", train=4)
    for mode in ("CMYK", "L"):
        image = Image.open(folder / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").convert(mode)
        image.save(folder / "train" / WNIDS[0] / f"{WNIDS[0]}_9{mode}.JPEG")
    where = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["data", "imagenet-quick", "--from", str(folder), *where]) == 0

    where += ["--results", str(tmp_path / "results"), "--threads", "1"]
    assert main(["reproduce", "table8", "--scale", "quick", "--epochs", "1", "--seeds", "1", *where]) == 0
    said = capfd.readouterr()
    assert "Tf-KD_self and Normal KD on ImageNet" in said.out
    assert "70.42" in said.out
    assert "not the full data set" in " ".join(said.out.split())
    specs = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/spec.json")]
    assert {spec["student"] for spec in specs} == {"torchvision:resnet18", "torchvision:densenet121"}
    assert all(spec["dataset"].startswith("imagenet-quick@") for spec in specs)

    assert main(["report", "--out", str(tmp_path / "report"), *where[:4]]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Tf-KD_self and Normal KD on ImageNet" in page
