"""sbatch, squeue, scontrol, scancel, sinfo and srun in one file, driven by `$FAKE_SLURM/state.json`.

Only what tfkd asks of them. Nothing runs: a test moves jobs on by editing the state.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(os.environ["FAKE_SLURM"])
OVERRIDES = {"SBATCH_JOB_NAME": "job-name", "SBATCH_PARTITION": "partition", "SBATCH_TIMELIMIT": "time"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")


@contextlib.contextmanager
def locked_state() -> Iterator[dict[str, Any]]:
    """The state, for one command at a time; written back afterwards."""
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = HOME / "state.json"
        state = json.loads(path.read_text())
        yield state
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(state))
        temporary.replace(path)


def refuse(command: str, sentence: str, *, code: int = 1) -> int:
    """Say it as SLURM does."""
    print(f"{command}: error: {sentence}", file=sys.stderr)
    return code


def sbatch(arguments: list[str], state: dict[str, Any]) -> int:
    """Accept a script, or refuse it for the reasons the state gives."""
    testing = "--test-only" in arguments
    text = sys.stdin.read() if testing else Path(arguments[-1]).read_text()
    options = _options(text) | {
        OVERRIDES[key]: os.environ[key] for key in OVERRIDES.keys() & os.environ.keys()
    }
    known = [line.split("|")[0].rstrip("*") for line in state["sinfo"]]
    if options.get("partition", known[0]) not in known:
        return refuse("sbatch", "invalid partition specified: " + options["partition"])
    size = _size(options.get("array"))
    if size > int(state["config"]["MaxArraySize"]):  # as 22.05: the highest index is one below
        return refuse("sbatch", "Batch job submission failed: Invalid job array specification")
    open_jobs = sum(e["state"] not in ENDED for job in state["jobs"].values() for e in job["elements"])
    if state["max_submit"] is not None and open_jobs + size > state["max_submit"]:
        refuse("sbatch", "AssocMaxSubmitJobLimit")
        return refuse(
            "sbatch",
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size"
            " and/or time limits)",
        )
    if testing:
        print("sbatch: Job 1 to start at 2026-11-22T12:00:00 using 1 processors", file=sys.stderr)
        return 0
    job_id = state["next_id"]
    state["next_id"] += size
    reason = "JobHeldUser" if "hold" in options else "Dependency" if "dependency" in options else "None"
    element = {"state": "PENDING", "reason": reason, "dependency": options.get("dependency", "")}
    state["jobs"][str(job_id)] = {
        "name": options["job-name"],
        "array": options.get("array"),
        "options": options,
        "script": text,
        "elements": [dict(element) for _ in range(size)],
    }
    if state["warn"]:
        print(f"sbatch: {state['warn']}", file=sys.stderr)
    print(f"Submitted batch job {job_id}")
    return 0


def squeue(arguments: list[str], state: dict[str, Any]) -> int:
    """All jobs that slurmctld remembers, one line an element; none where a variable hides them."""
    if "SQUEUE_PARTITION" in os.environ:
        return 0
    wanted = arguments[arguments.index("--name") + 1] if "--name" in arguments else None
    line = arguments[arguments.index("-o") + 1]
    for job_id, job in state["jobs"].items():
        for index, element in enumerate(job["elements"]):
            if wanted in (None, job["name"]):
                name = f"{job_id}_{index}" if job["array"] else job_id
                fields = {
                    "%i": name,
                    "%j": job["name"],
                    "%T": element["state"],
                    "%r": element["reason"],
                    "%E": element["dependency"] or "(null)",
                }
                print(re.sub("%[a-zA-Z]", lambda match, f=fields: f[match.group()], line))  # type: ignore[misc]
    return 0


def scontrol(arguments: list[str], state: dict[str, Any]) -> int:
    """show config, show job, update dependency, release, requeue."""
    verb = arguments[0]
    if verb == "show" and arguments[1] == "config":
        print("\n".join(f"{key:<24}= {value}" for key, value in state["config"].items()))
        return 0
    if verb == "show" and arguments[1] == "partition":
        print("\n".join(f"PartitionName={name} MaxMemPerNode={most}" for name, most in state["most"].items()))
        return 0
    if verb == "show":
        found = _elements(arguments[2], state)
        shown = found[0].get("shown", {}) if found else {}
        values = {
            "JobState": found[0]["state"] if found else "?",
            "PreemptTime": "None",
            "Restarts": "0",
            **shown,
        }
        print(" ".join(f"{key}={value}" for key, value in values.items()))
        return 0
    if verb == "update":
        values = dict(each.split("=", 1) for each in arguments[1:])
        for element in _elements(values["jobid"], state):
            element["dependency"] = values["dependency"]
            if element["reason"] != "JobHeldUser":
                element["reason"] = "Dependency" if values["dependency"] else "None"
        return 0
    if verb == "release":
        for element in _elements(arguments[1], state):
            element["reason"] = "Dependency" if element["dependency"] else "None"
        return 0
    if verb == "requeue" and state["no_requeue"]:
        return refuse("scontrol", f"Requested operation is presently disabled for job {arguments[1]}")
    if verb == "requeue":
        state["requeued"].append(arguments[1])
        return 0
    return refuse("scontrol", f"invalid keyword: {verb}")


def scancel(arguments: list[str], state: dict[str, Any]) -> int:
    """Whole jobs, elements and ranges of elements."""
    for each in arguments:
        for element in _elements(each, state):
            if element["state"] not in ENDED:
                element.update(state="CANCELLED", reason="None")
    return 0


def sinfo(arguments: list[str], state: dict[str, Any]) -> int:
    """The lines of the state."""
    print("\n".join(state["sinfo"]))
    return 0


def _options(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH --"):
            key, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[key] = shlex.split(value)[0] if value else ""
    return found


def _size(array: str | None) -> int:
    return int(array.split("%")[0].split("-")[1]) + 1 if array else 1


def _elements(name: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    base, _, inside = name.partition("_")
    elements: list[dict[str, Any]] = state["jobs"].get(base, {"elements": []})["elements"]
    if not inside:
        return elements
    indices: list[int] = []
    for part in inside.strip("[]").split(","):
        first, _, last = part.partition("-")
        indices += range(int(first), int(last or first) + 1)
    return [elements[index] for index in indices]


def main(command: str, arguments: list[str]) -> int:
    """One command: noted, refused when the state says so, done otherwise; sbatch may be slow to arrive."""
    if command == "sbatch" and (HOME / "slow").exists():
        time.sleep(float((HOME / "slow").read_text()))
    with locked_state() as state:
        state["calls"].append([command, *arguments])
        if state["down"]:
            return refuse(command, "Unable to contact slurm controller (connect failure)")
        for rule in state["rules"]:
            if rule["command"] == command and rule["times"] > 0 and rule["when"] in " ".join(arguments):
                rule["times"] -= 1
                return refuse(command, rule["sentence"])
        does = {
            "sbatch": sbatch,
            "squeue": squeue,
            "scontrol": scontrol,
            "scancel": scancel,
            "sinfo": sinfo,
        }
        return does[command](arguments, state) if command in does else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
