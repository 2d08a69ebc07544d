"""What the documentation tells people to type: its fenced blocks, and what a test may do with each.

The comment right before a block decides: `<!-- not run: reason -->`, or `<!-- test: --epochs 1 -->`, options
that a test adds to each `tfkd` line (the last one of a name wins). Without a comment a block is run as it is.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("tfkd", "make", "pip", "python", "git", "cd")
BLOCK = re.compile(
    r"(?:<!--\s*(?P<mark>test|not run):\s*(?P<text>.*?)\s*-->\s*\n+)?"
    r"^```(?P<language>\w*)\n(?P<body>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: the page and line it stands in, its language, its text, what the comment says."""

    page: str
    line: int
    language: str
    body: str
    added: str = ""  # options a test adds
    skipped: str = ""  # why it is not run

    @property
    def commands(self) -> list[list[str]]:
        """The lines as words, comments and prompts off."""
        joined = self.body.replace("\\\n", " ").splitlines()
        lines = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined]
        return [words for words in lines if words]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The command and Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        language, body = match["language"], match["body"]
        if not language and body.split()[:1] and body.split()[0].lstrip("$") in COMMANDS:
            language = "bash"
        if language in ("bash", "sh", "console", "python"):
            line = text.count("\n", 0, match.start("body"))
            added = match["text"] if match["mark"] == "test" else ""
            skipped = match["text"] if match["mark"] == "not run" else ""
            found.append(Block(page.name, line, language, body, added or "", skipped or ""))
    return found
