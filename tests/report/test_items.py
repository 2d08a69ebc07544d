"""Which tables a report shows, under which names."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from tfkd_cli.report.items import items


def test_requests_that_differ_in_seeds_or_in_company_are_one_table(
    stores: ModuleType, tmp_path: Path
) -> None:
    campaigns = [
        stores.campaign(tmp_path, ["table1"], seeds=(0, 1)),
        stores.campaign(tmp_path, ["table1", "table9"], seeds=(4,)),
    ]
    found = items(campaigns)
    assert [item.slug for item in found] == ["table1", "table9"]
    assert found[0].campaign.request.seeds == (0, 1, 4)
    assert found[0].command == "tfkd reproduce table1 && tfkd reproduce table1 table9"
    assert found[1].campaign.request.seeds == (4,)


def test_the_papers_own_scale_comes_before_others_and_tables_in_its_order(
    stores: ModuleType, tmp_path: Path
) -> None:
    campaigns = [
        stores.campaign(tmp_path, ["demo", "table10"], scale="quick"),
        stores.campaign(tmp_path, ["table9", "table2", "controls-cifar100"]),
    ]
    slugs = [item.slug for item in items(campaigns)]
    assert slugs == ["table2", "table9", "table10-quick", "controls-cifar100", "demo-quick"]


def test_grids_that_read_alike_still_have_names_of_their_own(stores: ModuleType, tmp_path: Path) -> None:
    [item] = items([stores.campaign(tmp_path, ["table9"], seeds=(0, 1), teacher_seeds="paired")])
    assert item.departures == ("a teacher per seed",)
    axes = {"dataset": "digits", "students": ["resnet8"], "teachers": ["resnet20"]}
    campaigns = [
        stores.grid(tmp_path, seeds=(0,), methods=["de-kd"], teacher_epochs=[epoch], **axes)
        for epoch in (1, 10)
    ]
    slugs = [item.slug for item in items(campaigns)]
    assert len(set(slugs)) == 2
    assert all(slug.startswith("run-digits-resnet8-de-kd-resnet20-") for slug in slugs)
