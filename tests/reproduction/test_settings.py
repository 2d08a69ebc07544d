"""Settings → runs: teachers, scales, forms and overrides land where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paper_tables.spec import Setting, Table
from tfkd_cli import grid
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.methods import CrossEntropy, Distillation, TfReg
from tfkd_cli.reproduction import measure, overrides, requests
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher

EXECUTION = Execution(cache="no-such-cache")


def request(*names: str, **manner: object) -> Request:
    return requests.for_names(names, Request(seeds=(0, 1, 2), **manner), execution=EXECUTION)  # type: ignore[arg-type]


def run(setting: Setting, **manner: object) -> RunSpec:
    return replace(request("table9", **manner)).spec(setting)


def teacher_of(spec: RunSpec) -> Teacher:
    assert isinstance(spec.teacher, Teacher)
    return spec.teacher


AUDITED = ("audit-tf-reg", "audit-tf-self", "audit-teacher")
RESNET18 = Setting(dataset="cifar100", student="resnet18", method="baseline")
REG = replace(RESNET18, method="tf-reg")
SELF = replace(RESNET18, method="tf-self")
KD = replace(RESNET18, method="kd", teacher="resnet50")


def test_tf_self_is_taught_by_the_students_own_baseline_of_seed_0() -> None:
    taught = replace(request("table5").spec(SELF), seed=2)
    assert teacher_of(taught).run == run(RESNET18)
    assert taught.method == "tf-self"


def test_the_released_settings_of_resnet18_are_those_of_its_params_json() -> None:
    assert run(REG).loss == TfReg(alpha=0.1, temperature=20, multiplier=100)
    assert run(SELF).loss == Distillation(alpha=0.95, temperature=6, multiplier=50)
    assert run(KD).loss == Distillation(alpha=0.6, temperature=20)
    assert run(KD).recipe.batch_size == 64
    assert run(KD).recipe.peak_lr == pytest.approx(0.05)


def test_a_form_changes_the_loss_and_never_the_teacher() -> None:
    released, printed = run(KD), run(KD, form="printed")
    assert released.loss != printed.loss
    assert released.teacher == printed.teacher


def test_quick_runs_are_ten_fast_epochs_teachers_included() -> None:
    quick = run(KD, scale="quick")
    for recipe in (quick.recipe, teacher_of(quick).run.recipe):
        assert (recipe.epochs, recipe.milestones, recipe.warmup_epochs) == (10, (3, 6, 8), 0.5)
        assert (recipe.precision, recipe.augment_stream) == ("bf16", "shared")


def test_a_recipe_override_reaches_teachers_and_a_loss_override_only_students() -> None:
    changed = overrides.parse(["recipe.epochs=30", "loss.temperature=4"], {})
    taught = run(KD, overrides=changed)
    assert taught.recipe.epochs == teacher_of(taught).run.recipe.epochs == 30
    assert taught.recipe.milestones == (9, 18, 24)
    assert taught.loss == Distillation(alpha=0.6, temperature=4)
    assert teacher_of(taught).run.loss == CrossEntropy()


def test_milestones_that_are_given_stay_as_given() -> None:
    changed = overrides.parse(["recipe.milestones=5,7", "recipe.epochs=9"], {})
    assert run(RESNET18, overrides=changed).recipe.milestones == (5, 7)


def test_seeds_never_change_the_teacher() -> None:
    made = request("table1")
    by_setting = made.runs_by_setting(made.tables[0])
    teachers = {
        (setting, teacher_of(spec).run.key)
        for setting, specs in by_setting.items()
        for spec in specs
        if spec.teacher
    }
    assert len(teachers) == len([setting for setting in by_setting if setting.teacher])


@pytest.mark.parametrize("setting", [SELF, KD, replace(KD, method="de-kd", teacher_epoch=50)])
def test_with_paired_teachers_each_seed_is_taught_by_the_teachers_run_of_that_seed(setting: Setting) -> None:
    one, paired = request("table9"), request("table9", teacher_seeds="paired")
    first, third = (paired.spec(setting, seed=seed) for seed in (0, 2))
    assert first.key == one.spec(setting, seed=0).key
    assert third.key != one.spec(setting, seed=2).key
    assert teacher_of(third).run == replace(teacher_of(first).run, seed=2)
    assert replace(third, teacher=None, loss=CrossEntropy()) == replace(
        one.spec(setting, seed=2), teacher=None, loss=CrossEntropy()
    )


def test_a_table_that_declares_paired_teachers_has_them_whatever_is_asked() -> None:
    made = request("demo")
    demo = replace(made.tables[0], teacher_seeds="paired")
    runs = replace(made, tables=(demo,)).runs(demo)
    assert {teacher_of(spec).run.seed for spec in runs if spec.teacher and spec.seed == 2} == {2}
    assert runs != made.runs(made.tables[0])


def test_paired_teachers_are_kept_in_the_record_of_a_request() -> None:
    made = request("table9", teacher_seeds="Paired")
    record = requests.to_json(made)
    again = requests.from_json(record, execution=EXECUTION)
    assert again.runs(again.tables[0]) == made.runs(made.tables[0])
    before = {name: value for name, value in record.items() if name != "teacher_seeds"}
    assert requests.from_json(before, execution=EXECUTION).teacher_seeds == "one"


def test_paired_teachers_are_not_taken_from_one_file_and_other_words_are_refused() -> None:
    foreign = ForeignTeacher(network="resnet50", digest="0" * 64)
    with pytest.raises(RequestError, match="weights from a file are one"):
        replace(request("table9", teacher_seeds="paired"), foreign_teacher=foreign).specs  # noqa: B018
    with pytest.raises(RequestError, match='unknown --teacher-seeds "pairs"'):
        request("table9", teacher_seeds="pairs")


def taught_on_imagenet(**manner: object) -> list[RunSpec]:
    made = request("table7", "table8", **manner)
    return [spec for item in made.items for spec in made.runs(item) if spec.loss.needs_teacher]


def test_on_imagenet_torchvisions_networks_teach_and_are_known_before_their_files_are_here() -> None:
    teachers = {spec.teacher for spec in taught_on_imagenet()}
    assert teachers == {
        ForeignTeacher(network="torchvision:resnet18", digest="f37072fd"),
        ForeignTeacher(network="torchvision:resnet50", digest="0676ba61"),
        ForeignTeacher(network="torchvision:densenet121", digest="a639ec97"),
        ForeignTeacher(network="torchvision:resnext101_32x8d", digest="8ba56ff5"),
    }
    for spec in taught_on_imagenet():
        assert spec.method == ("tf-self" if spec.teacher.network == spec.student else "kd")  # type: ignore[union-attr]
        assert RunSpec.from_json(spec.to_json()).key == spec.key


def test_teachers_on_imagenet_can_be_trained_here_which_is_another_run_and_kept_in_the_record() -> None:
    changed = overrides.parse(["teacher.weights=trained"], {})
    made = request("table8", overrides=changed)
    trained = made.runs(made.tables[0])
    baselines = {spec for spec in trained if spec.loss == CrossEntropy()}
    taught = [spec for spec in trained if spec.loss.needs_teacher]
    assert {teacher_of(spec).run.student for spec in taught} == {
        "torchvision:resnet18",
        "torchvision:densenet121",
    }
    assert {spec.key for spec in taught}.isdisjoint(spec.key for spec in taught_on_imagenet())
    assert baselines <= {spec for item in request("table8").items for spec in request("table8").runs(item)}
    again = requests.from_json(requests.to_json(made), execution=EXECUTION)
    assert again.runs(again.tables[0]) == trained
    for setting, (spec, *_) in made.runs_by_setting(made.tables[0]).items():
        footnotes = measure.unlike_paper(made, made.tables[0], setting, spec)
        assert any("teacher trained here" in each for each in footnotes) is spec.loss.needs_teacher


def test_at_quick_scale_a_small_set_stands_for_imagenet_and_teachers_are_trained() -> None:
    quick = taught_on_imagenet(scale="quick")
    assert {spec.dataset for spec in quick} == {"imagenet-quick"}
    assert {(spec.recipe.epochs, spec.recipe.batch_size) for spec in quick} == {(10, 64)}
    assert all(isinstance(spec.teacher, Teacher) for spec in quick)
    pretrained = overrides.parse(["teacher.weights=pretrained"], {})
    with pytest.raises(RequestError, match="cannot teach here: torchvision:resnet18 on 100 classes"):
        taught_on_imagenet(scale="quick", overrides=pretrained)


def test_the_deciding_arms_of_the_audit_have_all_seeds_and_a_teacher_for_each() -> None:
    assert requests.usual_seeds(["audit"]) == "0-19"
    made = requests.for_names(["audit"], Request(seeds=tuple(range(20))), execution=EXECUTION)
    arms = {(each.setting, each.against) for name in AUDITED for each in paper().claims[name].contrasts}
    deciding = {setting for pair in arms for setting in pair}
    for item in made.items:
        for setting, specs in made.runs_by_setting(item).items():
            untaught = setting.method == "baseline" and setting.student == "plain-cnn"
            assert len(specs) == (20 if setting in deciding or untaught else 5)
            assert all(spec.recipe.augment_stream == "shared" for spec in specs)
            assert all(teacher_of(spec).run.seed == spec.seed for spec in specs if spec.teacher)


@pytest.mark.parametrize("name", ["audit-cifar10", "audit-cifar100"])
def test_each_control_of_the_audit_has_the_loss_scale_of_its_arm(name: str) -> None:
    made = requests.for_names([name], Request(seeds=(0,)), execution=EXECUTION)
    classes = made.facts(name.removeprefix("audit-")).classes
    compared = 0
    for row in made.tables[0].rows:
        _, arm, control, _ = row.cells
        if arm is None or control is None:
            continue
        losses = [made.spec(each.setting, fast=True).loss for each in (arm, control)]
        ours, theirs = (loss.weights(classes) for loss in losses)
        compared += 1
        if arm.setting.method == "tf-reg":
            assert sum(ours.values()) == pytest.approx(sum(theirs.values()))
            assert losses[0].epsilon(classes) == pytest.approx(losses[1].epsilon(classes), abs=5e-5)
        else:
            assert theirs == pytest.approx({"ce": ours["ce"]})
    assert compared == 7


def test_each_network_of_the_audit_has_its_own_learning_rate_as_student_and_as_teacher() -> None:
    made = requests.for_names(["audit"], Request(seeds=(0,)), execution=EXECUTION)
    rates = {
        (each.student, each.recipe.optimizer, each.recipe.lr)
        for item in made.items
        for spec in made.runs(item)
        for each in spec.lineage
    }
    assert rates == {("plain-cnn", "adam", 0.008), ("resnet8", "sgd", 0.1), ("resnet20", "sgd", 0.1)}


def test_tables_with_other_numbers_of_seeds_need_one_to_be_asked_for() -> None:
    assert requests.usual_seeds(["table9", "demo"]) == "0-2"
    with pytest.raises(RequestError, match="audit-cifar10 20"):
        requests.usual_seeds(["table9", "audit-cifar10"])


def test_a_re_kd_run_is_the_kd_run_of_the_same_pair() -> None:
    kd, re_kd = run(KD), run(replace(KD, method="re-kd"))
    assert re_kd.method == "kd"
    assert re_kd.key == kd.key


def test_an_epoch_of_the_paper_is_scaled_to_the_teachers_recipe() -> None:
    badly = replace(RESNET18, student="mobilenetv2", method="de-kd", teacher="resnet50", teacher_epoch=50)
    assert teacher_of(run(badly)).checkpoint == 50
    assert teacher_of(run(badly, scale="quick")).checkpoint == 3


def test_an_epoch_of_a_grid_counts_in_the_teachers_own_recipe() -> None:
    axes = Axes(
        dataset="cifar100",
        students=("resnet8",),
        methods=("de-kd",),
        teachers=("resnet20",),
        teacher_epochs=(2,),
    )
    bare = Request(seeds=(0,), overrides=overrides.parse([], {"epochs": 10}))
    made = requests.for_axes(axes, bare, execution=EXECUTION)
    assert teacher_of(made.runs(made.tables[0])[1]).checkpoint == 2


def test_an_epoch_that_no_teacher_keeps_is_refused_with_those_it_keeps() -> None:
    axes = Axes(
        dataset="cifar100",
        students=("resnet8",),
        methods=("kd",),
        teachers=("resnet20",),
        teacher_epochs=(7,),
    )
    made = requests.for_axes(axes, Request(seeds=(0,)), execution=EXECUTION)
    with pytest.raises(RequestError, match="keeps no weights of epoch 7") as error:
        made.runs(made.tables[0])
    assert "1, 10, 20, 35, 50, 80, 120, 160" in error.value.expected


def test_tables_1_4_5_and_9_train_no_network_twice() -> None:
    made = request("table1", "table4", "table5", "table9")
    runs = {spec.key: spec for item in made.items for spec in made.runs(item)}
    baselines = [spec for spec in runs.values() if spec.loss == CrossEntropy() and spec.dataset == "cifar100"]
    students = {(spec.student, spec.seed) for spec in baselines}
    assert len(baselines) == len(students)


def test_the_same_question_kept_and_read_again_asks_for_the_same_runs() -> None:
    made = request("table2", "fig2", scale="quick", overrides=overrides.parse(["recipe.lr=0.05"], {}))
    again = requests.from_json(requests.to_json(made), execution=EXECUTION)
    assert [s.key for item in made.items for s in made.runs(item)] == [
        s.key for item in again.items for s in again.runs(item)
    ]


def test_a_grid_kept_and_read_again_asks_for_the_same_runs() -> None:
    axes = Axes(dataset="digits", students=("resnet8",), methods=("kd", "lsr"), teachers=("resnet20",))
    made = requests.for_axes(axes, Request(seeds=(3,)), execution=EXECUTION)
    again = requests.from_json(requests.to_json(made), execution=EXECUTION)
    assert made.runs(made.tables[0]) == again.runs(again.tables[0])


def test_every_setting_of_the_whole_paper_resolves_to_a_run() -> None:
    made = request("all")
    assert len(made.tables) >= 11
    assert all(made.runs(item) for item in made.items if item.settings())


def test_unknown_folders_do_not_reach_a_grid(tmp_path: Path) -> None:
    axes = requests.axes_of(dataset=f"folder:{tmp_path}/nothing", students=["resnet8"], methods=["lsr"])
    with pytest.raises(RequestError, match="does not exist"):
        requests.for_axes(axes, Request(seeds=(0,)), execution=EXECUTION)


def test_a_new_table_is_a_toml_and_nothing_else() -> None:
    tables = paper().tables
    assert isinstance(tables["demo"], Table)
    assert grid.table(Axes(dataset="digits", students=("resnet8",), methods=("lsr",))).kind == "grid"


def test_a_row_may_limit_the_seeds_of_its_settings_but_not_of_other_rows() -> None:
    made = replace(request("table9"), seeds=(0, 1, 2, 3))
    first, *others = made.tables[0].rows
    table = replace(made.tables[0], rows=(replace(first, seeds=2), *others))
    counts = {
        setting: len(runs) for setting, runs in replace(made, tables=(table,)).runs_by_setting(table).items()
    }
    limited = {cell.setting for cell in first.cells if cell}
    assert {counts[setting] for setting in limited} == {2}
    assert {count for setting, count in counts.items() if setting not in limited} == {4}


def test_how_image_files_are_read_is_set_as_data_and_is_part_of_the_recipe() -> None:
    assert overrides.parse(["data.corrupt=skip", "data.decoder=pillow"], {}).recipe == (
        ("corrupt", "skip"),
        ("decoder", "pillow"),
    )
    for wrong in ("data.lr=1", "data.corrupt=maybe"):
        with pytest.raises(RequestError):
            overrides.parse([wrong], {})
