"""What `tfkd show` prints besides tables: errata, claims, figures, single runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from paper_tables.spec import Figure, PaperTablesError
from tfkd_cli import console
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import judging
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.store import Store


def show_paper(what: str, store: Store, execution: Execution, *, form: str) -> int:
    """The paper's errata, or its claims with their verdicts."""
    if what == "errata":
        return _show_errata(form)
    from paper_tables import render

    verdicts = judging.verdicts(store, execution)
    if form == "json":
        console.print_json(render.claims_json(*verdicts))
    elif form in ("md", "tex"):
        print({"md": render.claims_markdown, "tex": render.claims_latex}[form](*verdicts), end="")
    else:
        target = console.out()
        target.print(render.claims_text(*verdicts, width=target.width))
    return 0


def _show_errata(form: str) -> int:
    found = paper().errata()
    if form == "json":
        console.print_json([asdict(each) for each in found])
        return 0
    rows = [
        (
            each.table,
            " / ".join(each.labels),
            each.column,
            each.printed or "",
            each.arithmetic or "",
            each.text,
        )
        for each in found
    ]
    heads = ("table", "row", "column", "printed", "arithmetic", "what is odd")
    console.out().print(console.simple_table(heads, rows))
    return 0


def show_figure(campaign: Campaign, figure: Figure, *, form: str) -> None:
    """The numbers behind a figure; `tfkd report` draws it."""
    from tfkd_cli.report.contents import gather
    from tfkd_cli.report.epochs import Kept

    only = campaign.only(figure.name)
    contents = gather([only], store=only.store, kept=Kept(), progress=lambda what, share: None)
    shown = next(iter(contents.figures.values()))
    if form == "json":
        console.print_json(asdict(shown))
        return
    target = console.out()
    target.print(f"{figure.name}: {figure.title}. `tfkd report` draws it.", markup=False)
    points = [(line.label, x, y) for line in shown.lines for x, y in zip(line.x, line.y, strict=True)]
    points += [(each.label, x, y) for each in shown.points for x, y in zip(each.x, each.y, strict=True)]
    points += [(bars.label, place, y) for bars in shown.bars for place, y in enumerate(bars.heights, 1)]
    rows = [(label, f"{x:g}", f"{y:.4g}") for label, x, y in points]
    rows += [(level.label, "", f"{level.y:.4g}") for level in shown.levels]
    target.print(console.simple_table(("series", figure.x_label, figure.y_label), rows))
    if shown.status:
        target.print(shown.status, markup=False)


def show_run(store: Store, text: str, *, form: str, unknown: PaperTablesError) -> int:
    """What one run is, how far it is, and its result."""
    try:
        folder = store.find(text)
    except RequestError as error:
        known = f"{unknown.expected} Or a run's key or folder."
        raise RequestError(
            f'"{text}" is neither a table, a figure nor a run here.',
            expected=known,
            hint=unknown.hint or error.hint,
        ) from error
    spec, state = folder.spec(), folder.state()
    shown: dict[str, Any] = {
        "run": folder.name,
        "status": state.status,
        "epoch": state.epoch,
        "attempts": state.attempts,
        "spec": spec.to_json(),
        "numerics": folder.numerics(),
        "failure": state.failure,
        "result": state.result,
    }
    if form == "json":
        console.print_json(shown)
        return 0
    print(f"{folder.name}: {state.status}, epoch {state.epoch or 0} of {spec.recipe.epochs}")
    if state.result:
        best, last = state.result["best"], state.result["last"]
        print(f"best {best['accuracy']:.2f} % (epoch {best['epoch']}), last {last['accuracy']:.2f} %")
    if state.failure:
        print(f"failed: {state.failure.get('message')}")
    print(f"folder {Path(folder.path)}")
    rows = [(name, _short(value)) for name, value in spec.to_json().items()]
    console.out().print(console.simple_table(("field", "value"), rows))
    return 0


def _short(value: Any) -> str:
    if isinstance(value, dict) and "run" in value:
        return f"{value['run']['student']} ({value['checkpoint']} epoch), seed {value['run']['seed']}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)
