"""A table on ImageNet at quick scale, from a folder to the table and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data import ilsvrc
from tests.data.ilsvrc import WNIDS
from tfkd_cli.__main__ import main


def test_table8_at_quick_scale_goes_from_a_folder_to_the_table_and_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = ilsvrc.make_tree(tmp_path / "ILSVRC")
    truncated = folder / "train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG"
    truncated.write_bytes(truncated.read_bytes()[:700])
    (folder / "train" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG").rename(
        folder / "train" / WNIDS[2] / f"{WNIDS[1]}_0.JPEG"  # in the folder of another class
    )
    where = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["data", "imagenet", "--from", str(folder), *where]) == 0

    where += ["--results", str(tmp_path / "results"), "--threads", "1"]
    command = ["reproduce", "table8", "--scale", "quick", "--epochs", "1", "--seeds", "1", *where]
    assert main([*command, "--dry-run"]) == 2
    assert main(command) == 2
    said = capfd.readouterr()
    assert f"{WNIDS[1]}_1.JPEG'." in said.err
    assert "--set data.corrupt=skip" in said.err
    assert "files named after another class than that of their folder" in said.err

    assert main([*command, "--set", "data.corrupt=skip"]) == 0
    said = capfd.readouterr()
    assert "Tf-KD_self and Normal KD on ImageNet" in said.out
    assert "70.42" in said.out
    assert "not the full data set" in " ".join(said.out.split())
    specs = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/spec.json")]
    assert {spec["student"] for spec in specs} == {"torchvision:resnet18", "torchvision:densenet121"}
    assert all(spec["dataset"].startswith("imagenet-quick@") for spec in specs)
    assert {spec["recipe"]["corrupt"] for spec in specs} == {"skip"}

    assert main(["report", "--out", str(tmp_path / "report"), *where[:4]]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Tf-KD_self and Normal KD on ImageNet" in page
