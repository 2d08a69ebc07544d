"""A MkDocs hook: Markdown files of the repository outside docs/ are pages of the site; links to them work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DECISIONS.md",
    "benchmarks/README.md",
    "paper_tables/README.md",
    "paper_tables/STATISTICS.md",
    "results/README.md",
    "slurm/README.md",
)
FOLDER = "repository"
LINK = re.compile(r"\]\((?P<target>[^)#:\s]+\.md)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ as `repository/…`."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between docs/ and the rest of the repository point to where the site has these pages."""
    source = page.file.src_uri
    here = ROOT / (source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else f"docs/{source}")

    def moved(match: re.Match[str]) -> str:
        target = (here.parent / match["target"]).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        name = target.relative_to(ROOT).as_posix()
        uri = name.removeprefix("docs/") if name.startswith("docs/") else f"{FOLDER}/{name}"
        up = "../" * source.count("/")
        return f"]({up}{uri}{match['anchor'] or ''})"

    return LINK.sub(moved, markdown)
