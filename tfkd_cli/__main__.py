"""`tfkd` and `python -m tfkd_cli`: every foreseen error becomes three lines and an exit code."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # nothing is imported outside of `main`, where Ctrl-C is caught
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _prepare_streams()
        return _main(given)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if "--debug" in given:
            raise
        from tfkd_cli.console import print_error
        from tfkd_cli.errors import RunError

        where = f" ({error.filename})" if error.filename else ""
        refused = RunError(
            f"the system refused: {error.strerror or error}{where}.",
            expected="a readable and writable place with room on it.",
            hint="free some space or name another folder with --results; --debug shows where.",
        )
        print_error(refused)
        return 1
    except (ImportError, MemoryError) as error:
        if "--debug" in given:
            raise
        from tfkd_cli.console import print_error
        from tfkd_cli.errors import RunError

        reason = (str(error).splitlines() or ["not enough memory"])[-1]
        hint = "check limits on memory (ulimit -v), then the installation with `tfkd doctor`."
        print_error(RunError(f"a library cannot be loaded or needs more memory: {reason[:300]}.", hint=hint))
        return 1


def _main(given: Sequence[str]) -> int:
    from paper_tables.spec import PaperTablesError
    from tfkd_cli.cli import app
    from tfkd_cli.console import print_error
    from tfkd_cli.errors import TfkdError

    words = [*given[1:], "--help"] if given[:1] == ["help"] else list(given)  # `tfkd help run`
    try:
        return int(app(words, prog_name="tfkd", standalone_mode=True) or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except (TfkdError, PaperTablesError) as error:
        if "--debug" in given:
            raise
        print_error(error)
        return getattr(error, "exit_code", 2)


def _prepare_streams() -> None:
    """Output goes nowhere where it is closed, and escapes what its encoding lacks (± in ASCII)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
