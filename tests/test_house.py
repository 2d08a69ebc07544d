"""What CONTRIBUTING asks of every change and a reader relies on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINES = {"module": 400, "function": 40}


def modules() -> Iterator[Path]:
    for folder in ("tfkd_cli", "paper_tables", "benchmarks", "slurm", "docs"):
        yield from (ROOT / folder).rglob("*.py")


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for each in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each


def test_no_module_is_longer_than_a_newcomer_reads_at_once() -> None:
    lengths = {str(each): len(each.read_text(encoding="utf-8").splitlines()) for each in modules()}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LINES["module"]} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{module.name}: {each.name}": (each.end_lineno or each.lineno) - each.lineno + 1
        for module in modules()
        for each in functions(module)
    }
    assert {name: length for name, length in lengths.items() if length > LINES["function"]} == {}
