"""One request over one store: its plan, its record, its comparison with the paper."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from paper_tables.spec import Table
from tfkd_cli import results
from tfkd_cli.costs import CostModel, Rates, command_seconds, measured_rates
from tfkd_cli.data import DataSet
from tfkd_cli.errors import TfkdError
from tfkd_cli.execution import Execution
from tfkd_cli.plan import Plan, make_plan
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.measure import assumed, measure
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import RunState, Store
from tfkd_cli.training import provenance

if TYPE_CHECKING:
    import pandas as pd

    from paper_tables.compare import Comparison


@dataclass(frozen=True)
class Campaign:
    """A request, the store it reads and fills, and how its runs execute.

    `execution` is completed by the paths that the request's data sets came from.
    """

    request: Request
    store: Store
    execution: Execution
    device: str = "cpu"  # what costs are estimated for: cpu, cuda, mps
    threads: int = 1  # per process of a run, where the device is a CPU
    processes_of: Callable[[RunSpec], int] = lambda spec: 1
    commands: tuple[str, ...] = ()  # what was typed for it
    calibrated: Rates = field(default_factory=dict)
    repeating: str = ""  # the text of a file that `tfkd run --from` repeats this from

    def __post_init__(self) -> None:
        sources = {each.name: each.source for each in self.request.data.values() if each.source}
        completed = replace(self.execution, sources={**self.execution.sources, **sources})
        object.__setattr__(self, "execution", completed)

    def joined(self, other: Campaign) -> Campaign:
        """This campaign with the seeds of another that differs in nothing else."""
        commands = tuple(dict.fromkeys((*self.commands, *other.commands)))
        seeds = tuple(sorted({*self.request.seeds, *other.request.seeds}))
        return replace(self, commands=commands, request=replace(self.request, seeds=seeds))

    def only(self, *names: str) -> Campaign:
        """This campaign, of its tables and figures just these."""
        request = replace(
            self.request,
            tables=tuple(each for each in self.request.tables if each.name in names),
            figures=tuple(each for each in self.request.figures if each.name in names),
        )
        return replace(self, request=request)

    def plan(
        self,
        states: Mapping[str, RunState] | None = None,
        *,
        wanted: Mapping[str, Sequence[RunSpec]] | None = None,
    ) -> Plan:
        """What is missing, in order, and what it costs; `wanted`: of these runs, with names for them."""
        states = self.store.scan() if states is None else states
        return make_plan(
            self.request.wanted if wanted is None else wanted,
            states=states,
            cost=self.cost_model(states),
            cached_epochs=self._cached_epochs(states),
            cache_limit=self.execution.teacher_cache_gb * 1e9,
            command_seconds=command_seconds(self.request.data.values()),
        )

    def _cached_epochs(self, states: Mapping[str, RunState]) -> Callable[[Teacher | ForeignTeacher], int]:
        """How many epochs of a teacher's logits the store has cached."""
        cached = self.store.cached_epochs()

        def epochs(teacher: Teacher | ForeignTeacher) -> int:
            if isinstance(teacher, ForeignTeacher):
                digest = teacher.digest
            else:
                state = states.get(teacher.run.key)
                result = (state.result if state else None) or {}
                digest = result.get("weights", {}).get(teacher.weights, "")
            return cached.get((teacher.cache_prefix, digest[:8]), 0)

        return epochs

    def cost_model(self, states: Mapping[str, RunState]) -> CostModel:
        """Costs from this store's own runs where there are like ones, else calibrated or modelled."""
        facts = self.facts()
        done = [state for state in states.values() if state.status == "done"]
        finished = ((spec, state.result or {}) for spec, state in with_specs(self.store, done))
        measured = measured_rates(finished, device=self.device, facts=facts)
        return CostModel(
            self.device,
            self.threads,
            self.processes_of,
            facts=facts,
            rates={**self.calibrated, **measured},
            bf16=self.device != "cpu" or provenance.cpu_has_bf16_units(),
        )

    def facts(self) -> dict[str, DataSet]:
        """The facts of the data sets by their resolved names."""
        return {each.name: each.facts for each in self.request.data.values()}

    def record(self, command: str) -> str:
        """Keep what was asked; an equal request keeps its id, which is returned.

        Descriptions of its runs that are damaged are written again, those of finished runs, too.
        """
        for spec in {spec.key: spec for spec in self.lineages}.values():
            self.store.run(spec).mend(spec)
        name = self.store.add_request(
            {
                "schema": 1,
                "command": command,
                **requests.to_json(self.request),
                **requests.described(self.request),
                "keys": {name: [spec.key for spec in specs] for name, specs in self.request.wanted.items()},
            }
        )
        if self.repeating:
            (self.store.root / "requests" / f"{name}.toml").write_text(self.repeating)
        return name

    @property
    def lineages(self) -> list[RunSpec]:
        """Its runs, each after its teachers."""
        return [each for spec in self.request.specs for each in spec.lineage]

    def runs(self) -> pd.DataFrame:
        """The runs of this campaign, their records checked, as a frame (see `tfkd_cli.results`)."""
        return results.runs_frame(results.read(self.store, self.lineages).values())

    def comparison(self, table: Table, runs: pd.DataFrame) -> Comparison:
        """One table, published beside measured, from a frame that holds its runs."""
        from paper_tables.compare import compare  # the statistics; a plan needs none

        values = measure(self.request, table, runs).by_setting
        return compare(table, values, lambda setting: assumed(self.request, setting))


def with_specs(store: Store, states: Iterable[RunState]) -> Iterator[tuple[RunSpec, RunState]]:
    """These runs with their descriptions, without those whose description is damaged."""
    for state in states:
        with contextlib.suppress(TfkdError):  # it is named where the store is scanned
            spec = store.folder(state.name).spec()
            yield spec, state
