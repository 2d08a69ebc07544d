"""`tfkd` and `python -m tfkd_cli`: every foreseen error becomes three lines and an exit code."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # nothing is imported outside of `main`, where Ctrl-C is caught
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _prepare_streams()
        _prepare_libraries()
        return _main(given)
    except KeyboardInterrupt:
        return 130
    except (OSError, ImportError, MemoryError) as error:
        if "--debug" in given:
            raise
        from tfkd_cli.console import print_error

        print_error(_explained(error))
        return 1


def _explained(error: Exception) -> Exception:
    import errno

    from tfkd_cli.errors import RunError

    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return RunError(
            f"the system refused: {error.strerror or error}{where}.",
            expected="a readable and writable place with room on it.",
            hint="raise the limit on open files (ulimit -n)."
            if error.errno == errno.EMFILE
            else "free some space or name another folder (--results, --cache-dir); --debug shows where.",
        )
    cause = error.__cause__ or error  # pandas says only that numpy is missing
    reason = (str(cause).splitlines() or ["not enough memory"])[-1]
    return RunError(
        f"a library cannot be loaded or needs more memory: {reason[:300]}.",
        expected="an installation that fits this machine, and room for it.",
        hint="check limits on memory (ulimit -v), then the installation with `tfkd doctor`.",
    )


def _main(given: Sequence[str]) -> int:
    import logging

    from paper_tables.spec import PaperTablesError
    from tfkd_cli.cli import ABORT, USAGE_ERROR, app, refusal
    from tfkd_cli.console import LogOutput, print_error, say
    from tfkd_cli.errors import TfkdError

    logging.getLogger("tfkd").addHandler(output := LogOutput())
    words = [*given[1:], "--help"] if given[:1] == ["help"] else list(given)  # `tfkd help run`
    try:
        return int(app(words or ["--help"], prog_name="tfkd", standalone_mode=False) or 0)
    except SystemExit as end:  # completion
        return end.code if isinstance(end.code, int) else 1
    except ABORT:  # Ctrl-C or Ctrl-D instead of an answer
        say("\nStopped.")
        return 130
    except USAGE_ERROR as error:
        print_error(refusal(error))
        return 2
    except (TfkdError, PaperTablesError) as error:
        if "--debug" in given:
            raise
        print_error(error)
        return getattr(error, "exit_code", 2)
    finally:
        logging.getLogger("tfkd").removeHandler(output)


def _prepare_streams() -> None:
    """Output goes nowhere where it is closed, and escapes what its encoding lacks (± in ASCII).

    A stderr that is full, or whose reader has gone, changes nothing: the exit code says what has happened.
    """
    stderr = sys.__stderr__
    if stderr is not None and sys.stderr is stderr:
        talk = io.BufferedWriter(_Talk(stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(talk, encoding=stderr.encoding, line_buffering=True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Talk(io.FileIO):
    def write(self, data: Any) -> int:
        """Of what cannot be written, nothing is kept."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _prepare_libraries() -> None:
    """Under `ulimit -v`, which some libraries do not survive: fewer threads, or an ImportError."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else it sends SIGINT where threads have no room
        sys.meta_path.insert(0, NoRoom(limit))


class NoRoom:
    """Refuses to import what would end this process, or wait for ever, in so little address space."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._needed = {"numpy": 240 << 20, "torch": 3400 << 20}  # bytes, measured: OpenBLAS; torch with CUDA

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """ImportError for a module that needs more (see `importlib.abc.MetaPathFinder`)."""
        needed = self._needed.get(name, 0)
        if self._limit < needed and not _is_for_cpu(name):
            room = f"{needed >> 20:,} MB of address space, and {self._limit >> 20:,} are allowed"
            raise ImportError(f"{name} needs about {room}")


def _is_for_cpu(name: str) -> bool:
    from importlib.metadata import version

    return version(name).endswith("+cpu")


if __name__ == "__main__":
    sys.exit(main())
