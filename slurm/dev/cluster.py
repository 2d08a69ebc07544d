"""A real SLURM on one host, without systemd, for tests and for trying things out.

python slurm/dev/cluster.py up DIR [--accounting] [--gpus 4] [--set KEY=VALUE]
. DIR/env.sh && sinfo
python slurm/dev/cluster.py stop DIR slurmctld       (also: kill, start; slurmd-localhost, slurmdbd, …)
python slurm/dev/cluster.py down DIR
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import config
from config import Layout, Options
from daemons import Daemons, start_time, wait_until


def up(root: Path, options: Options) -> Layout:
    """Bring a cluster up; a second call starts only what is not running."""
    layout = _known(root) or _create(root, options)
    options = Options(**json.loads((root / "options.json").read_text()))
    daemons = Daemons(layout)
    daemons.start("munged", _munged(layout), ready=layout.munge_socket.is_socket)
    if options.accounting:
        daemons.start(
            "mariadbd", ["mariadbd", *config.mariadb_options(layout)], ready=layout.database_socket.is_socket
        )
        daemons.start("slurmdbd", _daemon("slurmdbd"), ready=lambda: _listens(layout.port + 1))
    daemons.start("slurmctld", _daemon("slurmctld"), ready=lambda: _listens(layout.port))
    for name in layout.node_names:
        start(layout, f"slurmd-{name}")
    _wait_for_nodes(layout)
    return layout


def start(layout: Layout, name: str) -> None:
    """Start one daemon again."""
    if name.startswith("slurmd-"):
        node = name.removeprefix("slurmd-")
        port = layout.port + 2 + layout.node_names.index(node)
        Daemons(layout).start(name, [*_daemon("slurmd"), "-N", node], ready=lambda: _listens(port))
        return
    ports = {"slurmctld": layout.port, "slurmdbd": layout.port + 1}
    Daemons(layout).start(name, _daemon(name), ready=lambda: _listens(ports[name]))


def down(root: Path) -> None:
    """Cancel all jobs, end all daemons in order, leave no process behind."""
    layout = _known(root)
    if layout is None:
        return
    daemons = Daemons(layout)
    if _listens(layout.port):
        with contextlib.suppress(subprocess.TimeoutExpired):
            client(layout, "scancel", "--quiet", "--user", getpass.getuser())
            wait_until(lambda: not client(layout, "squeue", "--noheader"), seconds=8)
    running = daemons.names()
    # slurmd before slurmctld: it waits 9 s to deliver the end of a job to one that is gone.
    for name in [*(each for each in running if each.startswith("slurmd-")), "slurmctld"]:
        daemons.stop(name)
    daemons.kill_jobs()
    for name in ("slurmdbd", "mariadbd", "munged"):
        daemons.stop(name)


def guard(root: Path, pid: int) -> None:
    """Wait until process `pid` has ended, however, then leave nothing behind."""
    began = start_time(pid)
    while began and start_time(pid) == began:
        time.sleep(1)
    down(root)
    shutil.rmtree(root, ignore_errors=True)


def client(layout: Layout, *command: str) -> str:
    """What a SLURM command prints; never waits longer than 20 s."""
    environment = {**os.environ, "SLURM_CONF": str(layout.slurm_conf)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout


def _create(root: Path, options: Options) -> Layout:
    layout = Layout(root, config.free_ports(options.nodes + 2))
    layout.make_folders()
    loopback = config.loopback_only() or _can_rename_host()
    if not loopback:
        print(
            "warning: the host's name is no loopback address: SLURM listens on all of them", file=sys.stderr
        )
    layout.slurm_conf.write_text(config.slurm_conf(layout, options, bind_loopback=loopback))
    config.write_gres(layout, options)
    (root / "munge" / "key").write_bytes(os.urandom(128))
    (root / "munge" / "key").chmod(0o400)
    (root / "env.sh").write_text(f"export SLURM_CONF={shlex.quote(str(layout.slurm_conf))}\n")
    if options.accounting:
        _create_database(layout)
    (root / "options.json").write_text(json.dumps(asdict(options)))
    (root / "port").write_text(str(layout.port))  # last: from here on the cluster exists
    return layout


def _create_database(layout: Layout) -> None:
    dbd = layout.root / "etc" / "slurmdbd.conf"
    dbd.write_text(config.slurmdbd_conf(layout))
    dbd.chmod(0o600)
    (layout.root / "db" / "data").mkdir(exist_ok=True)
    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin") or "mariadbd"
    subprocess.run(
        [program, *config.mariadb_options(layout), "--bootstrap"],
        input=config.mariadb_bootstrap(),
        text=True,
        check=True,
        capture_output=True,
    )


def _known(root: Path) -> Layout | None:
    try:
        return Layout(root, int((root / "port").read_text()))
    except FileNotFoundError:
        return None


def _munged(layout: Layout) -> list[str]:
    folder = layout.root / "munge"
    return [
        "munged",
        "--foreground",
        "--force",  # a stale socket, a folder below /tmp
        f"--socket={layout.munge_socket}",
        f"--key-file={folder}/key",
        f"--pid-file={folder}/own.pid",
        f"--seed-file={folder}/seed",
        f"--log-file={layout.log('munged')}",
    ]


def _daemon(name: str) -> list[str]:
    if config.loopback_only() or not _can_rename_host():
        return [name, "-D"]
    # In a host-name space of its own the host is called localhost, and so the daemon binds to 127.0.0.1.
    return [
        "unshare",
        "--uts",
        "sh",
        "-c",
        'hostname localhost; PATH="$PATH:/usr/sbin"; exec "$@"',
        "sh",
        name,
        "-D",
    ]


def _can_rename_host() -> bool:
    done = subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False)
    return done.returncode == 0


def _wait_for_nodes(layout: Layout) -> None:
    def idle() -> bool:
        states = client(layout, "sinfo", "--noheader", "-N", "-o", "%T").split()
        return bool(states) and all(state in ("idle", "mixed", "allocated") for state in states)

    if wait_until(idle, seconds=5):
        return
    # A node that was once invalid or drained stays so when the cause is gone.
    for name in layout.node_names:
        client(layout, "scontrol", "update", f"nodename={name}", "state=resume")
    if not wait_until(idle, seconds=30):
        raise SystemExit(f"the nodes are not idle:\n{client(layout, 'sinfo', '-R')}see {layout.root / 'log'}")


def _listens(port: int) -> bool:
    # A client blocks for 9 s when slurmctld is down: ask the port first.
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        cpus=arguments.cpus,
        memory_mb=arguments.memory_mb,
        gpus=arguments.gpus,
        nodes=arguments.nodes,
        accounting=arguments.accounting,
        settings=dict(pair.split("=", 1) for pair in arguments.set),
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("up", "down", "start", "stop", "kill", "guard"))
    parser.add_argument("dir", type=Path)
    parser.add_argument("daemon", nargs="?", help="a daemon (start, stop, kill) or a process id (guard)")
    parser.add_argument("--cpus", type=int, default=Options.cpus)
    parser.add_argument("--memory-mb", type=int, default=Options.memory_mb)
    parser.add_argument("--gpus", type=int, default=Options.gpus)
    parser.add_argument("--nodes", type=int, default=Options.nodes)
    parser.add_argument("--accounting", action="store_true", help="slurmdbd and MariaDB: a real sacct")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a line of slurm.conf"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Parse, and do one thing."""
    arguments = _parse(argv)
    root = arguments.dir.resolve()
    if arguments.action == "up":
        up(root, _options(arguments))
        print(f". {root}/env.sh")
        return
    if arguments.action == "down":
        down(root)
        return
    if arguments.action == "guard":
        guard(root, int(arguments.daemon))
        return
    layout = _known(root)
    if layout is None or arguments.daemon is None:
        raise SystemExit(f"{arguments.action} needs a running cluster and the name of a daemon")
    if arguments.action == "start":
        start(layout, arguments.daemon)
        return
    sent = signal.SIGKILL if arguments.action == "kill" else signal.SIGTERM
    Daemons(layout).stop(arguments.daemon, sent=sent)


if __name__ == "__main__":
    main(sys.argv[1:])
