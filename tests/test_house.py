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


def test_the_readmes_tree_names_every_module_and_package() -> None:
    """Each line begins with names, then says what they hold; two spaces part them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("```text\ntfkd_cli/") :].partition("```text\n")[2].partition("```")[0]
    inside, _, beside = tree.partition("\npaper_tables/")
    named = {name for line in inside.splitlines()[1:] for name in line.strip().split("  ")[0].split()}
    package = ROOT / "tfkd_cli"
    expected = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    expected |= {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert named == expected
    assert all(
        f"{name}/" in f"paper_tables/{beside}" for name in ("paper_tables", "slurm", "benchmarks", "tests")
    )
