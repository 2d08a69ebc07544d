"""What every worker loads before it can train; importing this module loads it, once for all that are forked.

torch takes about 2 s of a core, and torch._dynamo, which the first optimiser imports, as long again. No
tensor operation is run here: a pool of threads does not survive a fork.
"""

from __future__ import annotations

from tfkd_cli.errors import RunError
from tfkd_cli.training import provenance

failure: RunError | None = None
"""Why torch does not load, where it does not; a second import of torch would report something else."""

try:
    import torch._dynamo  # noqa: F401 - loading it is what this module is for

    from tfkd_cli.training import runner  # noqa: F401
except (ImportError, MemoryError, OSError) as error:
    reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
    failure = RunError(
        f"torch cannot be loaded: {type(error).__name__}: {reason}"[:400],
        expected="an installation of torch that fits this machine, and about 4 GB of address space.",
        hint="check limits on memory (ulimit -v), then the installation with `tfkd doctor`.",
    )
else:
    for cached in (provenance.code, provenance.versions, provenance.cpu_name):
        cached()  # some 70 ms, four processes of git among them
