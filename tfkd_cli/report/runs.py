"""The runs behind a report: what each is, who asked for it, what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tfkd_cli.report.asked import Item
from tfkd_cli.report.epochs import Epochs
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import RunState
from tfkd_cli.store.records import METRICS

SCALES = ("paper", "quick", "demo", "custom")


@dataclass
class Wish:
    """Everything that asks for one run."""

    spec: RunSpec
    name: str  # its folder
    methods: dict[str, None] = field(default_factory=dict)
    forms: dict[str, None] = field(default_factory=dict)
    scales: dict[str, None] = field(default_factory=dict)
    items: dict[str, None] = field(default_factory=dict)  # slugs; a teacher's are those of its students

    @cached_property
    def described(self) -> dict[str, Any]:
        """The spec as JSON types."""
        return self.spec.to_json()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run that was asked for, teachers included.

    `epochs` is there for finished runs whose records are sound, and for no others. `began` holds what an
    attempt noted when it began (env.json); a finished run's result says it all.
    """

    wish: Wish
    state: RunState
    epochs: Epochs | None = None
    began: Mapping[str, Any] = field(default_factory=dict)
    blocked_by: str = ""
    note: str = ""  # what could not be read of an unfinished run

    @property
    def spec(self) -> RunSpec:
        """What the run is."""
        return self.wish.spec

    @property
    def name(self) -> str:
        """Its folder."""
        return self.wish.name

    @property
    def described(self) -> dict[str, Any]:
        """Its spec as JSON types."""
        return self.wish.described

    @property
    def done(self) -> bool:
        """Whether it counts."""
        return self.epochs is not None

    @property
    def status(self) -> str:
        """`done`, `running`, `resumable`, `blocked`, `failed`, `damaged`, `todo`."""
        if self.blocked_by and self.state.status in ("todo", "resumable"):
            return "blocked"
        return self.state.status

    @property
    def result(self) -> Mapping[str, Any]:
        """Its result.json; empty unless done."""
        return (self.state.result or {}) if self.done else {}

    @property
    def digest(self) -> str:
        """Of its metrics file; empty unless done."""
        return str(self.result["records"][METRICS]) if self.done else ""

    @property
    def method(self) -> str:
        """The method's name: derived from loss and teacher, but a kd run asked for as re-kd is one."""
        asked = [name for name in self.wish.methods if name in ("kd", "re-kd", "de-kd")]
        if self.spec.method == "kd" and asked and "kd" not in asked:
            return asked[0]
        return self.spec.method

    @property
    def form(self) -> str:
        """`released` or `printed`."""
        if len(self.wish.forms) == 1:
            return next(iter(self.wish.forms))
        forms = self.spec.loss.FORMS.items()
        own = (
            form for form, values in forms if all(getattr(self.spec.loss, k) == v for k, v in values.items())
        )
        return next(own, "released")

    @property
    def scale(self) -> str:
        """The most binding of the scales it was asked for at."""
        return next(scale for scale in SCALES if scale in self.wish.scales)

    @property
    def fast(self) -> bool:
        """Whether its recipe is not the paper's way of computing."""
        return self.spec.recipe.precision != "fp32" or self.spec.recipe.augment_stream != "seed"

    @property
    def checkpoint(self) -> str:
        """Which weights of its teacher taught it."""
        if isinstance(self.spec.teacher, Teacher):
            return str(self.spec.teacher.checkpoint)
        return (
            f"file:{self.spec.teacher.digest[:12]}" if isinstance(self.spec.teacher, ForeignTeacher) else ""
        )

    @property
    def commit(self) -> str:
        """Commit of the code, and the digest of what was changed on top of it."""
        source = self.result or self.began
        commit, diff = str(source.get("commit") or ""), str(source.get("diff") or "")
        return f"{commit}+{diff[:8]}" if diff else commit

    @property
    def numerics(self) -> Mapping[str, Any]:
        """Device, threads, torch."""
        found = (self.result or self.began).get("numerics")
        return found if isinstance(found, Mapping) else {}

    @property
    def hardware(self) -> str:
        """The device's name."""
        return str(
            self.result.get("hardware") or self.numerics.get("device_name") or self.began.get("cpu") or ""
        )

    @cached_property
    def failure(self) -> Mapping[str, Any]:
        """Why it failed; empty where it did not."""
        return self.state.failure or {}

    def identity(self) -> list[Any]:
        """Values of the identity columns."""
        spec = self.spec
        teacher = spec.teacher.network if spec.teacher else ""
        fast = "true" if self.fast else "false"
        who = [self.name, spec.dataset, spec.student, self.method, self.form, teacher, self.checkpoint]
        return [*who, spec.seed, self.scale, fast]


def wishes(items: Iterable[Item]) -> dict[str, Wish]:
    """Folder → who asks for that run: the runs of these items, and the teachers they need."""
    found: dict[str, Wish] = {}
    for item in items:
        request = item.campaign.request
        for setting, specs in request.runs_by_setting(item.what).items():
            for spec in specs:
                for each in lineage(spec):
                    name = each.folder
                    wish = found.get(name) or found.setdefault(name, Wish(each, name))
                    wish.forms[setting.form or request.form] = None
                    wish.scales[item.scale] = None
                    wish.items[item.slug] = None
                found[name].methods[setting.method] = None  # the last of its lineage is the run itself
    return found


def lineage(spec: RunSpec) -> Iterator[RunSpec]:
    """Its teacher's teacher, its teacher, itself."""
    for parent in spec.parents:
        yield from lineage(parent)
    yield spec
