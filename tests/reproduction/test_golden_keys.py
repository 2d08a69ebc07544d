"""The keys of the whole paper grid, reviewed as a diff (TFKD_UPDATE_GOLDEN=1 writes them anew).

A key is a run's name on disk. When one changes, every result made under the old one, on every cluster,
would be trained again. So a change here needs a reason that is worth weeks of GPU time, an entry in
DECISIONS.md, and a raised TRAINER_VERSION where numbers change.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from paper_tables.spec import Setting
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Form
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.settings import Request

GOLDEN = Path(__file__).parents[1] / "golden" / "keys.json"
FORMS: tuple[Form, ...] = ("released", "printed")


def name(setting: Setting) -> str:
    """A setting in one line."""
    parts = [setting.dataset, setting.student, setting.method]
    if setting.teacher:
        parts.append(
            f"from {setting.teacher}" + (f" epoch {setting.teacher_epoch}" if setting.teacher_epoch else "")
        )
    parts += [f"{field}={value}" for field, value in (*setting.loss, *setting.recipe)]
    return " ".join([*parts, *([setting.form] if setting.form else [])])


def grid_keys() -> dict[str, dict[str, str]]:
    """Form and scale → setting → the first 12 digits of its key at seed 0."""
    keys: dict[str, dict[str, str]] = {}
    for form in FORMS:
        for scale in ("paper", "quick"):
            bare = Request(seeds=(0,), form=form, scale=scale)
            request = requests.for_names(["all", "demo"], bare, execution=Execution(cache="no-such-cache"))
            found = {
                name(setting): specs[0].key[:12]
                for item in request.items
                for setting, specs in request.runs_by_setting(item).items()
            }
            keys[f"{form}, {scale}"] = dict(sorted(found.items()))
    return keys


def test_the_keys_of_the_whole_paper_grid_stand() -> None:
    found = grid_keys()
    if os.environ.get("TFKD_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    kept = json.loads(GOLDEN.read_text())
    changed = {
        f"{manner}: {setting}": (kept.get(manner, {}).get(setting), key)
        for manner, settings in found.items()
        for setting, key in settings.items()
        if kept.get(manner, {}).get(setting) != key
    }
    assert not changed, f"{len(changed)} published keys changed, as {next(iter(changed))}.\n\n{__doc__}"
    assert found.keys() == kept.keys()


def test_quick_and_paper_scale_share_no_run() -> None:
    keys = grid_keys()
    paper, quick = (keys[f"released, {scale}"] for scale in ("paper", "quick"))
    the_papers = {
        key for setting, key in paper.items() if not setting.startswith("digits ")
    }  # the demo is quick
    assert not the_papers & set(quick.values())
