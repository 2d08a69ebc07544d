"""A method, a data set and a network, each one file outside the package, from the command line."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.report import stores
from tfkd_cli import data, methods, results
from tfkd_cli.__main__ import main
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.methods import LossParts
from tfkd_cli.report import figures
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import Store

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
METHOD, DATA, NETWORK = (
    "python:decoupled_kd:DecoupledKD",
    "python:stripes:STRIPES",
    "python:pooled:pooled_pixels",
)
Tfkd = Callable[..., str]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the three files; nothing of them is remembered afterwards."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [each for each in sys.path if each])
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """As in a new process."""
    methods.imported.cache_clear()
    methods.loss_type.cache_clear()
    importlib.invalidate_caches()
    methods._remembered.clear()
    for name in ("decoupled_kd", "stripes", "pooled"):
        sys.modules.pop(name, None)


@pytest.fixture
def tfkd(outside: Path, capfd: pytest.CaptureFixture[str]) -> Tfkd:
    """Gives a command, which must succeed, and returns its standard output."""

    def given(*arguments: str) -> str:
        capfd.readouterr()
        forget()
        where = [] if arguments[0] == "list" else ["--results", "results"]
        assert main([*arguments, *where]) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    return given


def test_decoupled_kd_is_the_kl_divergence_taken_apart(outside: Path) -> None:
    """Zhao et al. 2022, Eq. 6: KD = TCKD + (1 - p^t of the label)·NCKD, for each image."""
    generator = torch.Generator().manual_seed(0)
    logits_NK, teacher_NK = (4 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in "pt")
    loss = methods.loss_type(METHOD)()
    for image in range(6):
        logits, teacher = logits_NK[image : image + 1], teacher_NK[image : image + 1]
        parts = loss(logits, torch.tensor([image % 5]), teacher).parts
        p, q = (teacher / 4).softmax(1), (logits / 4).log_softmax(1)
        kl = (p * (p.log() - q)).sum().item()
        rest = 1 - p[0, image % 5].item()
        assert parts["tckd"].item() + rest * parts["nckd"].item() == pytest.approx(kl, rel=1e-9)


def test_decoupled_kd_warms_up_with_the_epochs(outside: Path) -> None:
    loss = methods.loss_type(METHOD)()
    logits_NK, labels_N = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])

    def divergence(epoch: float) -> float:
        given: LossParts = loss(logits_NK, labels_N, -logits_NK, epoch=epoch)
        return (given.total - given.parts["ce"]).item()

    whole = divergence(20)
    assert [divergence(each) for each in (5, 10, 21)] == pytest.approx([whole / 4, whole / 2, whole])


def test_a_method_a_data_set_and_a_network_outside_the_package_go_all_the_way(
    outside: Path, tfkd: Tfkd
) -> None:
    run = ("--student", NETWORK, "--method", METHOD, "--teacher", "plain-cnn", "--dataset", DATA)
    changed = ("--epochs", "2", "--set", "loss.beta=4", "--set", "loss.warmup=1")
    tfkd("run", *run, *changed, "--threads", "1", "--batch-size", "4", "--jobs", "1")

    (folder,) = outside.glob("results/runs/*-dkd-from-plain-cnn-s0-*")
    spec = RunSpec.from_json(json.loads((folder / "spec.json").read_text()))
    assert isinstance(spec.teacher, Teacher)
    assert (spec.loss.kind, spec.student) == (METHOD, NETWORK)
    assert re.fullmatch(DATA + "@[0-9a-f]{12}", spec.dataset)
    assert spec.recipe.augment == "none"  # as the data set says
    assert spec.teacher.run.recipe.augment == "none"

    said = tfkd("explain", *run)
    assert said.startswith("DKD of ")
    assert "H(q, p) + 4²·[1·TCKD_4 + 8·NCKD_4]" in said
    assert "tckd 16, nckd 128" in said
    assert json.loads(tfkd("status", "--json"))["counts"]["done"] == 3  # with the teacher and the baseline
    assert f"DKD on {spec.dataset}" in tfkd("show", "run")
    assert ",dkd," in tfkd("show", "run", "--format", "csv")
    assert "\nmethod,dkd\n" in tfkd("show", folder.name, "--format", "csv")
    assert folder.name in "".join(tfkd("show", folder.name).split())  # too long for a line
    tfkd("report")
    assert "dkd from plain-cnn β=4 τ=4" in (outside / "results/index.html").read_text()

    runs, epochs = results.load(outside / "results")
    assert set(runs["method"]) == {"baseline", "dkd"}
    assert runs.set_index("method").loc["dkd", "beta"] == 4
    own = epochs[epochs["method"] == "dkd"]
    assert own[["loss_ce", "loss_tckd", "loss_nckd"]].notna().all(axis=None)
    assert own["loss_kl"].isna().all()


def test_a_method_outside_the_package_is_compared_with_the_others(outside: Path, tfkd: Tfkd) -> None:
    what = ("--dataset", DATA, "--student", "plain-cnn", "--teacher", "plain-cnn", "--method", METHOD)
    length = ("--epochs", "2", "--batch-size", "8", "--seeds", "1", "--trials", "2", "--threads", "1")
    answer = json.loads(tfkd("compare", *what, *length, "--json"))
    tried = [each["values"] for each in answer["trials"] if each["method"] == "dkd"]
    assert [each["beta"] for each in tried] == [8, 2]
    assert ("dkd", "baseline") in {(each["method"], each["against"]) for each in answer["differences"]}
    assert METHOD not in tfkd("show", "compare")
    tfkd("report")
    assert "dkd from plain-cnn" in (outside / "results/index.html").read_text()


ENTRY_POINTS = """[tfkd.methods]
dkd = decoupled_kd:DecoupledKD

[tfkd.datasets]
stripes = stripes:STRIPES
"""


def test_an_installed_package_registers_a_method_and_a_data_set_under_names(
    outside: Path, tfkd: Tfkd, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = outside / "own-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(outside))
    assert {"dkd", "kd"} <= methods.all_methods().keys()
    assert data.dataset("Stripes").name == DATA
    assert "DKD" in tfkd("list", "methods")
    assert "Stripes" in tfkd("list", "datasets")

    setting = ("--student", "plain-cnn", "--teacher", "resnet8", "--dataset", "digits", "--json")
    by_name, by_place = (
        json.loads(tfkd("explain", *setting, "--method", each))[0]["run"] for each in ("DKD", METHOD)
    )
    assert by_name == by_place
    assert by_name["loss"]["kind"] == METHOD


def decoded(outside: Path, *changes: tuple[str, str]) -> data.ResolvedData:
    """What the data set is now, after these changes of its file."""
    file = outside / "stripes.py"
    for old, new in changes:
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    forget()
    shutil.rmtree(outside / "__pycache__", ignore_errors=True)
    return data.prepare(DATA, execution=Execution(cache=str(outside / "cache")))


def test_a_data_set_outside_the_package_is_known_by_what_it_decodes_and_declares(outside: Path) -> None:
    first = decoded(outside)
    assert decoded(outside, ('"""Horizontal', '"""Comment: horizontal')).name == first.name
    other_images = decoded(outside, ("count) % 2", "count) // 2 % 2"))
    other_mean = decoded(outside, ("mean=(0.5,)", "mean=(0.4,)"))
    other_views = decoded(outside, ('"none"', '"shift"'))
    other_classes = decoded(outside, ("classes=2", "classes=3"), ('"vertical")', '"vertical", "none")'))
    found = [first, other_images, other_mean, other_views, other_classes]
    assert len({each.name for each in found}) == len(found)
    assert [each.facts.augmentation for each in found] == ["none", "none", "none", "shift", "shift"]

    (outside / "stripes.py").unlink()
    forget()
    execution = Execution(cache=str(outside / "cache"))
    assert data.load(first.name, execution=execution).train_labels_N.tolist() == [0, 1] * 20
    with pytest.raises(RequestError, match="No module named 'stripes'"):
        data.resolve(DATA, execution=execution)


def test_a_data_set_that_decodes_to_another_content_than_planned_is_refused(outside: Path) -> None:
    planned = decoded(outside).name
    shutil.rmtree(outside / "cache")
    now = decoded(outside, ("count) % 2", "count) // 2 % 2")).name
    with pytest.raises(RequestError, match=f"is {now} now, {planned} was asked for"):
        data.load(planned, execution=Execution(cache=str(outside / "cache")))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return facts", "raise SystemExit(3)", "failed: SystemExit: 3"),
        ("std=(0.5,) * 3", "std=(0.5,) * 2", "declares 3 means and 2 deviations, 3 channels"),
        ("mean=(0.5,)", "mean=(float('nan'),)", "which normalise nothing"),
        ("std=(0.5,)", "std=(0.0,)", "which normalise nothing"),
        ('"none"', '"flip"', "declares the augmentation 'flip'; known are none, shift, crop-flip,"),
        ("return facts", "", "gave NoneType instead of its facts"),
        ("[images]", "[images / 255]", "a chunk of images that is float64"),
        ("[images]", "images", r"a chunk of images that is uint8 of shape \(3, 28, 28\)"),
        ("[images]", "[images[:, :1]]", r"has images of shape \(1, 28, 28\) in its part train"),
        ("% 2", "% 3", "has labels from 0 to 2 in its part train"),
        ('"vertical")', '"vertical", "none")', "names 3 classes, and declares 2"),
        ('("test"', '("testing"', "writes a part testing"),
        ('("test"', '("val"', "has no images in its part test"),
    ],
)
def test_what_decodes_no_data_set_is_refused_with_what_one_is(
    outside: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        decoded(outside, (old, new))
    assert "(N, 3, 28, 28), uint8, and a label from 0 to 1" in refused.value.expected
    assert refused.value.hint
    assert not list((outside / "cache").rglob("*.npy"))


def test_a_request_keeps_its_runs_when_the_data_set_is_changed_or_gone(outside: Path) -> None:
    cache = outside / "cache"
    axes = requests.axes_of(dataset=DATA, students=["plain-cnn"], methods=["lsr"])
    made = requests.for_axes(axes, Request(), execution=Execution(cache=str(cache)))
    kept = {**requests.to_json(made), **requests.described(made)}
    old = {**requests.to_json(made), "data": {DATA: DATA}}  # as runs of earlier versions knew it

    def read(stored: dict[str, Any]) -> Request:
        forget()
        return requests.from_json(stored, execution=Execution(cache=str(outside / "other cache")))

    (spec, *_) = read(old).specs
    assert (spec.dataset, spec.recipe.augment) == (DATA, "none")
    (outside / "stripes.py").unlink()
    assert read(kept).specs == made.specs
    assert not (outside / "other cache").exists()


@pytest.mark.parametrize(
    "setting", ["alpha=inf", "alpha=nan", "beta=-1", "temperature=0", "warmup=0", "warmup=-1", "warmup=nan"]
)
def test_a_value_outside_the_range_of_a_field_is_refused(
    outside: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--student", "resnet8", "--teacher", "resnet8", "--dataset", "digits", "--method", METHOD]
    assert main(["run", *run, "--set", f"loss.{setting}", "--dry-run"]) == 2
    assert re.search(
        r"Error: .*loss\.\w+ is .*\n  Expected: a (finite|whole) number", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("python:decoupled_kd:Nothing", "has no attribute 'Nothing'"),
        ("python:decoupled_kd:parameter", "is no loss"),
        ("python:nowhere_to_be_found:Loss", "No module named"),
        ("python:this:Loss", "names no code of your own"),
        ("python:pip.__main__:main", "names no code of your own"),
        ("python:decoupled_kd", "names no code of your own"),
    ],
)
def test_what_is_no_loss_is_refused_with_what_one_is(outside: Path, name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        methods.method(name)
    assert "tfkd_cli.methods.Loss" in refused.value.expected


def test_where_code_outside_the_package_is_gone_its_runs_are_shown_from_their_records(
    outside: Path, tfkd: Tfkd, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = outside / "results"
    finished_grid(root, monkeypatch)
    shown = [("show", "run", "--format", "csv"), ("status", "--json"), ("runs", "--json")]
    before = [tfkd(*each) for each in shown]
    tfkd("report")
    report = {path: path.read_bytes() for path in (root / "report").glob("*.csv")}
    assert len(report) == 3
    for path in outside.glob("*.py"):
        path.unlink()
    assert [tfkd(*each) for each in shown] == before
    tfkd("report")
    assert {path: path.read_bytes() for path in (root / "report").glob("*.csv")} == report
    assert "Its runs are shown from their records" in (root / "index.html").read_text()
    assert json.loads(tfkd("clean", "--json"))["items"] == []
    runs, epochs = results.load(root)
    own = runs[runs["method"] == "dkd"].iloc[0]
    assert (own["student"], own["beta"], own["status"]) == (NETWORK, 8, "done")
    assert own["best_accuracy"] == epochs.loc[epochs["run"] == own["run"], "test_accuracy"].max()
    for words in (["retry", own["run"]], ["explain", "--student", "resnet8", "--method", METHOD]):
        assert main([*words, "--results", str(root)]) == 2
        assert "Hint: give the command in the folder of the module" in capfd.readouterr().err


def test_a_request_that_cannot_be_read_without_its_code_loses_nothing_to_a_report_or_to_cleaning(
    outside: Path, tfkd: Tfkd, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = outside / "results"
    finished_grid(root, monkeypatch)
    (request,) = (root / "requests").glob("*.json")
    record = json.loads(request.read_text())
    request.unlink()  # an earlier tfkd wrote it without `described`
    Store(root).add_request({name: value for name, value in record.items() if name != "described"})
    tfkd("report")
    files = {*(root / "report").rglob("*")}
    (outside / "decoupled_kd.py").unlink()
    forget()
    assert main(["report", "--results", str(root)]) == 1
    said = capfd.readouterr().err
    assert "Hint: give the command in the folder of the module" in said
    assert ".bad" not in said
    shutil.copy(EXAMPLES / "decoupled_kd.py", outside)  # back, but the report is that without it
    tfkd("clean", "--yes")
    assert {*(root / "report").rglob("*")} == files


def finished_grid(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished grid of the method, the data set and the network outside the package."""
    monkeypatch.setattr(figures, "FORMATS", ("svg",))
    monkeypatch.setattr(figures, "CURVE_FORMATS", ())
    monkeypatch.setitem(stores.GAIN, "dkd", 1.0)
    axes = {"dataset": DATA, "students": [NETWORK], "methods": [METHOD], "teachers": ["resnet8"]}
    stores.finish_all(stores.grid(root, seeds=(0, 1), **axes))


def test_a_run_whose_loss_has_no_class_cannot_be_trained(outside: Path) -> None:
    teacher = RunSpec(dataset="digits", student="resnet8")
    spec = RunSpec(
        dataset="digits", student="resnet8", loss=methods.loss_type(METHOD)(), teacher=Teacher(run=teacher)
    )
    described = spec.to_json()
    assert RunSpec.from_json(described) == spec
    (outside / "decoupled_kd.py").unlink()
    forget()
    found = RunSpec.from_json(described)
    assert found.key == spec.key
    with pytest.raises(RequestError, match="No module named 'decoupled_kd'"):
        found.loss(torch.zeros(2, 5), torch.tensor([0, 1]), torch.zeros(2, 5))


SILENT = """
from dataclasses import dataclass

from tfkd_cli.methods import Loss, LossParts, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Silent(Loss):
    name = label = does = "silent"
    reports = {"ce": "cross-entropy"}

    def __call__(self, logits_NK, labels_N, teacher_NK=None, *, epoch=0):
        ce = cross_entropy(logits_NK, labels_N)
        return LossParts(ce, {"ce": ce})


@dataclass(frozen=True, kw_only=True)
class Broken(Silent):
    def weights(self, classes):
        return {"ce": 1 / 0}
"""


def test_a_method_that_does_not_say_its_equation_or_fails_to_is_explained_without_a_traceback(
    outside: Path, tfkd: Tfkd, capfd: pytest.CaptureFixture[str]
) -> None:
    (outside / "silent.py").write_text(SILENT)
    setting = ("explain", "--student", "plain-cnn", "--dataset", "digits", "--method")
    assert "the class does not say its equation" in tfkd(*setting, "python:silent:Silent")
    assert main([*setting, "python:silent:Broken"]) == 2
    assert '"python:silent:Broken" failed: ZeroDivisionError: division by zero.' in capfd.readouterr().err


def test_a_slow_decode_is_told_with_the_name_that_spares_it(
    outside: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tfkd_cli.data.own.SLOW", -1.0)
    found = decoded(outside)
    assert f"Hint: --dataset {found.name} takes these images from the cache." in caplog.text
    caplog.clear()
    data.resolve(found.name, execution=Execution(cache=str(outside / "cache")))
    assert not caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    alpha: Weight", '    gamma: Weight = parameter("new", default=2.0)\n    alpha: Weight'),
        ("default=8.0", "default=4.0"),
        ("needs_teacher = True", "needs_teacher = False"),
        ("Meta(ge=0, le=1000)", "Meta(ge=0, le=5)"),
    ],
)
def test_where_a_class_has_changed_its_runs_are_shown_as_they_were_made(
    outside: Path, tfkd: Tfkd, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    root, code = outside / "results", outside / "decoupled_kd.py"
    finished_grid(root, monkeypatch)
    shown = [("show", "run", "--format", "csv"), ("status", "--json"), ("runs", "--json"), ("report",)]
    before = [tfkd(*each) for each in shown]
    tables = {path: path.read_bytes() for path in (root / "report").glob("*.csv")}
    assert old in code.read_text()
    code.write_text(code.read_text().replace(old, new))
    shutil.rmtree(outside / "__pycache__", ignore_errors=True)
    assert [tfkd(*each) for each in shown] == before
    assert {path: path.read_bytes() for path in (root / "report").glob("*.csv")} == tables
    assert "DecoupledKD&#34; has changed since" in (root / "index.html").read_text()
