"""Every command block of the documentation runs, or says why not; every generated page is up to date."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from docs.generate import pages
from docs.measured import audit, beside_the_paper, published, state
from tests.docs.blocks import Block, blocks
from tests.report import stores
from tfkd_cli import results
from tfkd_cli.__main__ import main
from tfkd_cli.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NETWORKS = """
from torch import nn

def small_cnn(num_classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(8, num_classes))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the documentation's reader has it: examples, photos, networks, another's teacher."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs" / "examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("TFKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    photographs(tmp_path / "photos")
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    torch.save({"state_dict": prefixed(teacher_of_brightness())}, tmp_path / "teacher.pt")
    return tmp_path


def photographs(folder: Path) -> None:
    """Dark cats and bright dogs, noise apart."""
    numbers = np.random.default_rng(0)
    for label, level in (("cat", 60), ("dog", 180)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = numbers.integers(level - 50, level + 50, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def teacher_of_brightness() -> torch.nn.Module:
    """A ResNet18 with random features, its last layer fitted to tell dark from bright."""
    torch.manual_seed(0)
    network: torch.nn.Module = torchvision.models.resnet18(num_classes=2).eval()
    levels = torch.tensor([60.0, 180.0]) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((levels[:, None] - mean) / std)[:, :, None, None].expand(2, 3, 32, 32)
    head = torch.nn.Linear(512, 2)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        dark, bright = network(images + 0.2 * torch.randn_like(images))
        direction = (bright - dark) / (bright - dark).norm()
        head.weight.copy_(torch.stack([-direction, direction]))
        middle = direction @ (dark + bright) / 2
        head.bias.copy_(torch.stack([middle, -middle]))
    network.fc = head
    return network


def prefixed(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in network.state_dict().items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_block_runs_or_says_why_not(
    page: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for block in blocks(page):
        if block.skipped:
            assert len(block.skipped) > 10, f"{block}: not run, but the reason is missing"
        elif block.language == "python":
            run_python(block, here)
        else:
            for words in block.commands:
                run_command(block, words, capfd)


def run_command(block: Block, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), str(block)
        return
    assert words[0] == "tfkd", f"{block}: {words[0]} is not run by this test; mark it `not run` and say why"
    code = main([*words[1:], *block.added.split()])
    said = capfd.readouterr()
    assert code == 0, f"{block}: {' '.join(words)} ended with {code}\n{said.err}"


def run_python(block: Block, here: Path) -> None:
    """As a script of its own; `student.pt` is that of a run of this page."""
    script = here / "example.py"
    code = block.body
    if block.added == "student.pt":
        shutil.copy(next(here.glob("results/runs/*/weights/student.pt")), here / "student.pt")
        code += "\nassert predict(torch.randint(0, 256, (2, 3, 32, 32)))[0] in saved['class_names']\n"
    script.write_text(code)
    runpy.run_path(str(script))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`tfkd ([a-z]\w*)", text))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_generated_pages_are_up_to_date(tmp_path: Path) -> None:
    stale = [path.name for path, text in pages(tmp_path).items() if path.read_text("utf-8") != text]
    assert not stale, "run: python -m docs.generate"


def test_published_packs_become_the_tables_verdicts_and_figures_of_their_report(tmp_path: Path) -> None:
    made = stores.campaign(tmp_path / "results", ["audit-cifar10"], seeds=(0, 1, 2))
    with stores.in_memory():
        done = [stores.finish(made.store, spec) for spec in stores.wanted(made) if spec.seed < 2]
    made.store.pack(None, tmp_path / "audit.tar.gz")
    page = published(tmp_path, pictures=tmp_path / "images")
    assert f"{len(done)} runs are finished and {len(done) // 2} are not." in page
    assert (
        "| Audit: Tf-KD_self beats cross-entropy with the same weight. | best | Partly measured: mean gain "
        in page
    )
    students = {spec.student for spec in stores.wanted(made)}
    assert all(
        f"| cifar10 | {student} | 0.00 ± 0.00 (n = " in page for student in students
    )  # best minus last
    assert page.count("| plain-cnn | resnet20 |") == 4  # the teacher's epochs 1, 2, 3 and its best
    for picture in re.findall(r"\(images/(.+?)\)", page):
        assert (tmp_path / "images" / picture).stat().st_size > 1000
    assert published(tmp_path / "nothing", pictures=tmp_path) == "No runs are published yet."


def test_the_audit_is_answered_in_one_sentence_and_judged_when_all_its_seeds_are_in(tmp_path: Path) -> None:
    made = stores.campaign(tmp_path / "results", ["audit"], seeds=tuple(range(20)))
    with stores.in_memory():
        for spec in stores.wanted(made):
            few = spec.method in ("baseline", "scaled-ce", "tf-self") and spec.seed < 3
            if spec.student == "plain-cnn" and (spec.method in ("tf-reg", "lsr") or few):
                stores.finish(made.store, spec)
    made.store.pack(None, tmp_path / "audit.tar.gz")
    text = audit(tmp_path, pictures=tmp_path)
    number = r"[+-]\d+\.\d\d"
    gain = rf"{number} \[{number}, {number}\] 95 %"
    assert re.search(rf"loss scale: {gain} \(better: (holds|not shown); equal within ±0.3: ", text)
    assert re.search(rf"the same weight: {gain} \(12 of 80 runs, not judged yet\)", text)
    assert "one epoch" not in text  # nothing of it is measured
    assert (tmp_path / "audit.svg").stat().st_size > 1000
    assert "no method is compared yet" in audit(tmp_path / "nothing", pictures=tmp_path)


def test_published_values_stand_beside_what_the_packs_have_measured(tmp_path: Path) -> None:
    made = stores.campaign(tmp_path / "results", ["table2", "table5"], seeds=(0, 1))
    with stores.in_memory():
        for spec in stores.wanted(made):
            subject = spec.dataset, spec.student, spec.method
            if subject in {("cifar10", "plain-cnn", "baseline"), ("cifar100", "googlenet", "kd")}:
                stores.finish(made.store, spec)
    made.store.pack(None, tmp_path / "some.tar.gz")
    assert "3 of 177 published values are measured so far, by the runs of 2 settings" in state(tmp_path)
    table = beside_the_paper(tmp_path)
    runs, _ = results.load(tmp_path / "some.tar.gz")
    own = runs.loc[runs["student"] == "plain-cnn", "best_accuracy"].dropna()
    mean, std, half = own.mean(), own.std(), 12.706 * own.std() / 2**0.5  # t(0.975; 1) = 12.706
    value = f"{mean:.2f} ± {std:.2f} [{mean - half:.2f}, {mean + half:.2f}] ({mean - 87.14:+.2f})"
    assert table.count(f"| Small: baseline | 87.14 | 2 of 3 | {value} |") == 2  # it stands in two rows
    assert "table5" not in table  # it prints the gain of GoogLeNet alone, whose baseline is not here
    assert "0 of 177 published values are measured so far" in state(tmp_path / "nothing")
