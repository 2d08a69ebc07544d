"""`tfkd report`: everything to files, published beside measured, with the statistics and a verdict.

Writes `OUT/index.html` and `OUT/report/…`, and nothing else.
"""

from __future__ import annotations

from tfkd_cli.report.staging import outdated
from tfkd_cli.report.writing import Written, write

__all__ = ["Written", "outdated", "write"]
