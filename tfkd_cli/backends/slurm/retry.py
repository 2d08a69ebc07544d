"""A failed run once more, and the students that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm.submit import submit
from tfkd_cli.errors import RequestError
from tfkd_cli.spec import Teacher

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.submission import Submitted
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import Store


def retry(
    store: Store,
    spec: RunSpec,
    *,
    execution: Execution,
    profile: Profile,
    costs: Mapping[str, float] | None = None,
    on_event: Callable[[str], None] = lambda text: None,
) -> Submitted:
    """Submit `spec` again, with a fresh count of attempts; its waiting students wait for the new job.

    Unfinished teachers of its own go before it. RequestError when it is done.
    """
    state = store.run(spec).state()
    if state.can_teach():
        raise RequestError(
            f"{spec.folder} is done.", expected="a run without a result.", hint="`tfkd status` shows them."
        )
    wanted = list(_with_open_teachers(spec, store))
    return submit(wanted, store=store, execution=execution, profile=profile, costs=costs, on_event=on_event)


def _with_open_teachers(spec: RunSpec, store: Store) -> dict[RunSpec, None]:
    found: dict[RunSpec, None] = {}
    teacher = spec.teacher
    if isinstance(teacher, Teacher) and not store.run(teacher.run).state().can_teach(teacher.checkpoint):
        found.update(_with_open_teachers(teacher.run, store))
    found[spec] = None
    return found
