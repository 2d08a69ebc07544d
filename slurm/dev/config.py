"""What the daemons of a development cluster read: slurm.conf, gres.conf, slurmdbd.conf, MariaDB's options."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Device files an unprivileged user may borrow as GPUs where mknod is not allowed.
BORROWED_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A cluster on one host; `settings` are lines of slurm.conf that win over ours."""

    cpus: int = 8  # more than the host has: SlurmdParameters=config_overrides
    memory_mb: int = 8000
    gpus: int = 4
    nodes: int = 1
    accounting: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Where everything of one cluster lies; nothing outside `root` is written."""

    root: Path
    port: int  # slurmctld; +1 slurmdbd, +2… slurmd

    @property
    def slurm_conf(self) -> Path:
        """What SLURM_CONF names: every client and daemon finds the cluster by it."""
        return self.root / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Our own munged's socket; its folder must be open to all users."""
        return self.root / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        """MariaDB listens here and nowhere else."""
        return self.root / "db" / "socket"

    @property
    def node_names(self) -> list[str]:
        """Read back from slurm.conf: `localhost` (which resolves), or n1, n2, …"""
        lines = self.slurm_conf.read_text().splitlines()
        return [line.split()[0].split("=")[1] for line in lines if line.startswith("NodeName=")]

    def log(self, daemon: str) -> Path:
        """A daemon's log."""
        return self.root / "log" / f"{daemon}.log"

    def make_folders(self) -> None:
        """Folders with the modes that munge and slurmctld ask for."""
        for name in ("etc", "munge", "ctld", "spool", "run", "log", "dev", "db"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            (self.root / name).chmod(0o700 if name == "db" else 0o755)
        self.root.chmod(0o755)


def loopback_only() -> bool:
    """True where the host's own name means 127.*: NoInAddrAny binds daemons to that address."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports nobody listens on (below Linux's ephemeral range)."""
    start = 17000 + (os.getpid() * 37) % 12000
    for base in range(start, 32000, count):
        if all(_is_free(base + offset) for offset in range(count)):
            return base
    raise SystemExit("no free ports between 17000 and 32000")


ANYWHERE = {
    "ProctrackType": "proctrack/linuxproc",  # the process tree of /proc: no cgroups needed
    "TaskPlugin": "task/none",
    "MpiDefault": "none",
    "MailProg": "/bin/true",
    "PropagateResourceLimits": "NONE",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "SchedulerType": "sched/backfill",
    # The defaults look each 30-60 s; with these a job starts within a second of its submission.
    "SchedulerParameters": "sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,"
    "bf_resolution=1",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": "1",
    "KillWait": "5",
    "MinJobAge": "3600",
    "SlurmdTimeout": "30",
    "ReturnToService": "2",
    "SlurmdParameters": "config_overrides",
    "GresTypes": "gpu",
}
"""What does not depend on where the cluster lives."""


def slurm_conf(layout: Layout, options: Options, *, bind_loopback: bool) -> str:
    """slurm.conf; a line's reason stands beside it."""
    root, port = layout.root, layout.port
    settings = {
        "ClusterName": "dev",
        "SlurmctldHost": "localhost(127.0.0.1)",  # means "this host" whatever its name is
        "SlurmctldPort": f"{port}",
        "SlurmUser": getpass.getuser(),
        "SlurmdUser": getpass.getuser(),
        "AuthType": "auth/munge",
        # A requeued job waits for cred_expire as well: 120 s by default, 5 is the least that is accepted.
        "AuthInfo": f"socket={layout.munge_socket},cred_expire=5",
        "StateSaveLocation": f"{root}/ctld",
        "SlurmdSpoolDir": f"{root}/spool/%n",
        "SlurmctldPidFile": f"{root}/run/slurmctld.own",
        "SlurmdPidFile": f"{root}/run/slurmd-%n.own",
        "SlurmctldLogFile": f"{layout.log('slurmctld')}",
        "SlurmdLogFile": f"{root}/log/slurmd-%n.log",
        **ANYWHERE,
        **_accounting(layout, options),
    }
    if bind_loopback:
        settings["CommunicationParameters"] = "NoInAddrAny,NoCtldInAddrAny"
    settings.update(options.settings)
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join([*lines, *_nodes(layout, options), *_partitions()]) + "\n"


def _accounting(layout: Layout, options: Options) -> dict[str, str]:
    if not options.accounting:
        return {
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
        }
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": f"{layout.port + 1}",
        # For slurmdbd the munge socket is named here, not in AuthInfo.
        "AccountingStoragePass": f"{layout.munge_socket}",
        "AccountingStorageTRES": "gres/gpu",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
    }


def _nodes(layout: Layout, options: Options) -> list[str]:
    # A node called as its host takes the host name for itself alone: "Duplicated NodeHostName" with two.
    several = [f"n{index}" for index in range(1, options.nodes + 1)]
    names = ["localhost"] if options.nodes == 1 else several
    gres = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    return [
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={layout.port + 2 + index}"
        f" CPUs={options.cpus} RealMemory={options.memory_mb}{gres} State=UNKNOWN"
        for index, name in enumerate(names)
    ]


def _partitions() -> list[str]:
    return [
        # Without DefMemPerCPU a job that names no memory gets all of it, and jobs queue up one by one.
        "PartitionName=DEFAULT Nodes=ALL DefMemPerCPU=100 DefaultTime=10 MaxTime=INFINITE State=UP",
        "PartitionName=main Default=YES PriorityTier=10 PreemptMode=REQUEUE",
        "PartitionName=urgent PriorityTier=100 PreemptMode=OFF",
    ]


def write_gres(layout: Layout, options: Options) -> None:
    """gres.conf with one character device a GPU: a count without files is refused, so are shared files."""
    devices = [_device(layout, index) for index in range(options.gpus)]
    lines = [f"Name=gpu File={device}" for device in devices]
    (layout.root / "etc" / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines]) + "\n")


def _device(layout: Layout, index: int) -> Path:
    path = layout.root / "dev" / f"nvidia{index}"
    if path.exists():
        return path
    try:
        os.mknod(path, 0o020666, os.makedev(1, 3))  # a second /dev/null
        return path
    except PermissionError:
        if index >= len(BORROWED_DEVICES):
            raise SystemExit(f"without mknod at most {len(BORROWED_DEVICES)} GPUs") from None
        return Path("/dev") / BORROWED_DEVICES[index]


def slurmdbd_conf(layout: Layout) -> str:
    """slurmdbd.conf; must be readable by its user alone."""
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "CommunicationParameters": "NoInAddrAny",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": f"{layout.port + 1}",
        "SlurmUser": getpass.getuser(),
        "LogFile": f"{layout.log('slurmdbd')}",
        "PidFile": f"{layout.root}/run/slurmdbd.own",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": getpass.getuser(),
        "StorageLoc": "slurm_acct_db",
    }
    return "\n".join(f"{key}={value}" for key, value in settings.items()) + "\n"


def mariadb_options(layout: Layout) -> list[str]:
    """A small server without network, on a socket in a closed folder."""
    db = layout.root / "db"
    return [
        "--no-defaults",
        f"--datadir={db}/data",
        f"--socket={layout.database_socket}",
        f"--pid-file={db}/mariadbd.own",
        f"--log-error={layout.log('mariadbd')}",
        f"--user={getpass.getuser()}",
        "--skip-networking",
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=32M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
        "--character-set-server=utf8mb4",
    ]


def mariadb_bootstrap() -> str:
    """System tables and a user without password (unix socket); our own statements are one a line."""
    share = Path("/usr/share/mysql")
    own = [
        "CREATE DATABASE IF NOT EXISTS mysql;",
        "USE mysql;",
        "SET @skip_auth_anonymous=1;",
        f"SET @auth_root_socket='{getpass.getuser()}';",
    ]
    names = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
    return "\n".join([*own, *((share / name).read_text() for name in names)])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
