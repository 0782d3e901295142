"""
Runs the services of a compose file without an engine: plain processes in Linux namespaces of their own.

A container here has the host's programs in place of an image's, and the rest as docker gives it: a network address of
its own and the names of those on its networks, a file system with what the Dockerfile copies and the file's mounts, a
process tree, a user without capabilities. So commands, addresses and paths of the compose file are used as they are.

Everything is a child of one process in a namespace; when it ends, the kernel ends the rest, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.deploy.compose import ComposeError, Project, Service
from tests.deploy.dockerfile import Image
from tests.shipped import left_out

_TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))

# What the images of PostgreSQL and Redis do by themselves when they start.
_POSTGRES_START = r"""
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" > /tmp/password
  initdb --username="$POSTGRES_USER" --pwfile=/tmp/password $POSTGRES_INITDB_ARGS >&2
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres >&2
fi
exec postgres -c listen_addresses='*'
"""
# The Airflow image looks for the database before it starts anything, unless it is told not to.
_AIRFLOW_START = r"""
if [ "${CONNECTION_CHECK_MAX_COUNT:-20}" != 0 ] && ! (exec 3<>/dev/tcp/postgres/5432); then
  echo "the image's start script does not reach the database" >&2; exit 1
fi
exec "$@"
"""


def what_is_missing() -> list[str]:
    """Return what this machine lacks for a rehearsal."""
    missing = [
        tool
        for tool in ("unshare", "nsenter", "setpriv", "ip", "curl", "redis-server", "dumb-init", "openssl")
        if not shutil.which(tool)
    ]
    if not _POSTGRES:
        missing.append("postgresql")
    if os.geteuid():
        missing.append("the rights of root, to make namespaces")
    elif (
        not missing
        and subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False
        ).returncode
    ):
        missing.append("namespaces, which the kernel refuses here")
    return missing


class ContainerEndedError(RuntimeError):
    """A container ended that should run."""


class Container:
    """One container of a service."""

    def __init__(self, engine: Engine, service: Service, number: int, addresses: dict[str, str]) -> None:
        self.service = service
        self.name = f"{service.name}-{number}"
        # As docker names it: the host name is the beginning of the id.
        self.hostname = secrets.token_hex(6)
        self.addresses = addresses
        self.root = engine.work / "containers" / self.name
        self.log = engine.work / "logs" / f"{self.name}.log"
        self.environment: dict[str, str] = {}
        self.last_look = "its health was not looked at"
        self._engine = engine
        self._user = (0, 0)
        self._workdir = "/"
        self._image: Image | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the service's command; after an end, again in the same file system."""
        command = self._take_image()
        self._make_files()
        # To be read again after the change of the namespace, in which mounts are the container's own.
        script = self.root.with_suffix(".sh")
        script.write_text("\n".join(self._mounts()) + "\n")
        unshare = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--"]
        with self.log.open("a") as out:
            self._process = subprocess.Popen(
                [*self._engine.enter, "ip", "netns", "exec", self.name, *unshare, "/bin/sh", str(script), *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Return the exit code, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def stop(self, seconds: float = 30) -> int:
        """End it as `docker stop` does, and return the exit code."""
        assert self._process is not None
        if self.ended() is None:
            # The image of PostgreSQL asks for SIGINT: end without waiting for the clients.
            is_postgres = self.service.image.startswith("postgres:")
            os.kill(self._first(), signal.SIGINT if is_postgres else signal.SIGTERM)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait(10)

    def kill(self) -> None:
        """End it at once, as a power failure does."""
        os.kill(self._first(), signal.SIGKILL)
        assert self._process is not None
        self._process.wait(30)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all processes in it: SIGSTOP makes it hang, SIGCONT goes on."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def processes(self) -> list[psutil.Process]:
        """Return the living processes in it."""
        first = psutil.Process(self._first())
        return [first, *first.children(recursive=True)]

    def memory(self) -> int:
        """Return the bytes of memory in use, with what processes share counted once."""
        total = 0
        for process in self.processes():
            try:
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
        return total

    def execute(self, command: list[str], timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `docker exec` does: same user, same environment; a time-out is exit code 124."""
        enter = ["nsenter", "--target", str(self._first()), "--mount", "--uts", "--ipc", "--net", "--pid", "--root"]
        process = subprocess.Popen(
            [*enter, "--", *self._as_user(), *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return subprocess.CompletedProcess(command, 124, "", f"not done after {timeout:g} s")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def is_healthy(self) -> bool:
        """Run the service's health check once."""
        check = self.service.healthcheck
        if check is None:
            return False
        looked = self.execute(check.command, check.timeout)
        self.last_look = f"its health check ended with {looked.returncode}: {looked.stdout}{looked.stderr}".strip()
        return looked.returncode == 0

    def path(self, inside: str) -> Path:
        """Return where a file of the container can be looked at from outside."""
        return Path(f"/proc/{self._first()}/root") / inside.lstrip("/")

    def tail(self, lines: int = 30) -> str:
        """Return the last lines that it has written."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _first(self) -> int:
        """Return the number that its process 1 has outside."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise ContainerEndedError(f"{self.name} has ended with {self._process.returncode}:\n{self.tail()}")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                # Its numbers in the namespaces of this machine, of the engine, and of the container.
                status = Path(f"/proc/{child.pid}/status").read_text()
                numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(numbers) == 3 and numbers[-1] == "1":
                    return child.pid
            time.sleep(0.02)
        raise ContainerEndedError(f"{self.name} has no process:\n{self.tail()}")

    def threads(self) -> int:
        """Return the number of processes and threads in it, which `pids_limit` limits."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.num_threads()
        return total

    def _as_user(self) -> list[str]:
        """Return the beginning of a command line that gives the rest the service's user, rights and folder."""
        user, group = self._user
        rights = []
        if self.service.options.get("cap_drop") == ["ALL"]:
            rights += ["--inh-caps=-all", "--bounding-set=-all"]
        if "no-new-privileges:true" in self.service.options.get("security_opt", []):
            rights += ["--no-new-privs"]
        return [
            "/usr/bin/setpriv",
            f"--reuid={user}",
            f"--regid={group}",
            "--clear-groups",
            *rights,
            "--",
            "/usr/bin/env",
            f"--chdir={self._workdir}",
        ]

    def _take_image(self) -> list[str]:
        """Set what the image decides, and return the command with what the image puts before it."""
        service = self.service
        self._image = image = self._engine.images.get(service.target or "")
        command = service.command or []
        start = ["/usr/bin/dumb-init", "--"] if service.init else []
        environment = {"HOSTNAME": self.hostname, "PATH": _TOOLS, "HOME": "/tmp", "LANG": "C.UTF-8"}
        if image:
            environment |= {"PATH": f"{Path(sys.prefix) / 'bin'}:{_TOOLS}", **image.environment}
            self._workdir = image.workdir
            if image.base == "apache/airflow":
                start = ["/usr/bin/dumb-init", "--", "/bin/bash", "-c", _AIRFLOW_START, "start"]
        elif service.image.startswith("postgres:"):
            environment |= {"PATH": f"{_POSTGRES[-1].parent}:{_TOOLS}", "PGDATA": "/var/lib/postgresql/data"}
            command = command or ["/bin/sh", "-c", _POSTGRES_START]
        elif not service.image.startswith("redis:"):
            raise ComposeError(f"{service.name}: the rehearsal has nothing in place of the image {service.image}")
        self.environment = environment | service.environment
        self._user = _user_of(service)
        return [*start, *command]

    def _make_files(self) -> None:
        """Write the container's own files: the image's at the first start, the names of the others at each."""
        (self.root / "etc").mkdir(parents=True, exist_ok=True)
        for name, text in self._etc().items():
            (self.root / "etc" / name).write_text(text)
        made = self.root / ".made"
        if made.exists():
            return
        for folder in ("proc", "dev/shm", "tmp", "run/postgresql", "home/airflow", "var/lib/sandbox"):
            (self.root / folder).mkdir(parents=True)
        for folder in ("tmp", "run/postgresql"):
            (self.root / folder).chmod(0o1777)
        (self.root / "var/run").symlink_to("/run")
        for source, target in self._image.copies if self._image else []:
            self._copy(self._engine.project_folder / source, target)
        own = ["home/airflow", "var/lib/sandbox"]
        if self._image and self._image.base == "apache/airflow":
            (self.root / "opt/airflow/logs").mkdir()
            own += ["opt/airflow", "opt/airflow/logs"]
        for folder in own:
            os.chown(self.root / folder, *self._user)
        made.touch()

    def _mounts(self) -> list[str]:
        """Return the script that mounts everything, changes into it, and starts its arguments as the service's user."""
        root = shlex.quote(str(self.root))
        script = ["set -eu", "its_path=$PATH", f"PATH={_TOOLS}", f"R={root}", f"hostname {self.hostname}"]
        # A mount of its own, which can be made read-only below the others.
        script.append('mount --bind "$R" "$R"')
        # First, as this machine may have its programs below /tmp.
        for mounted in ("/dev/shm:mode=1777", *self.service.options.get("tmpfs", [])):
            path, _, options = mounted.partition(":")
            script.append(f'mkdir -p "$R{path}" && mount -t tmpfs -o {options} tmpfs "$R{path}"')
        system = [Path(name) for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64")]
        system += [Path("/etc") / name for name in ("ld.so.cache", "ssl", "alternatives", "localtime", "nsswitch.conf")]
        if self._image:
            prefix = Path(sys.prefix)
            system += [prefix.resolve(), Path(sys.base_prefix).resolve()]
            if prefix.resolve() != prefix:
                script.append(f'mkdir -p "$R{prefix.parent}" && ln -sfn {prefix.resolve()} "$R{prefix}"')
        for path in system:
            if path.is_symlink():
                script.append(f'mkdir -p "$R{path.parent}" && ln -sfn {path.readlink()} "$R{path}"')
            elif path.exists():
                script += _bind(str(path), str(path), read_only=True)
        for device in ("null", "zero", "random", "urandom"):
            script += _bind(f"/dev/{device}", f"/dev/{device}")
        for name, end in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            script.append(f'ln -sfn /proc/self/fd{end} "$R/dev/{name}"')
        for mount in self.service.mounts:
            source = mount.source if mount.kind == "bind" else str(self._engine.volume(mount.source, self._user))
            script += _bind(source, mount.target, read_only=mount.read_only)
        script.append('mount -t proc proc "$R/proc"')
        if self.service.options.get("read_only"):
            script.append('mount -o remount,bind,ro "$R"')
        return [
            *script,
            'export PATH="$its_path"',
            f'exec /usr/sbin/chroot "$R" {shlex.join(self._as_user())} "$@"',
        ]

    def _copy(self, source: Path, target: str) -> None:
        place = Path(f"{self.root}{target}")
        if source.is_dir():
            shutil.copytree(source, place, ignore=left_out, dirs_exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)

    def _etc(self) -> dict[str, str]:
        user, group = self._user
        hosts = ["127.0.0.1 localhost", *(f"{address} {self.hostname}" for address in self.addresses.values())]
        for other in self._engine.containers:
            for network in self.service.networks:
                if network in other.addresses and other is not self:
                    hosts.append(f"{other.addresses[network]} {other.service.name} {other.hostname}")
        return {
            "hosts": "\n".join(hosts) + "\n",
            "resolv.conf": "",
            "hostname": f"{self.hostname}\n",
            "passwd": f"root:x:0:0:root:/root:/bin/sh\nservice:x:{user}:{group}::{self.environment['HOME']}:/bin/sh\n",
            "group": f"root:x:0:\nservice:x:{group or 65534}:\n",
        }


class Engine:
    """
    Starts a project's services in the order that its file asks for.

    :param project: what to start
    :param images: the stages of the Dockerfile
    :param project_folder: what the Dockerfile copies from
    :param work: folder for file systems, volumes and logs
    """

    def __init__(self, project: Project, images: dict[str, Image], project_folder: Path, work: Path) -> None:
        self.project = project
        self.images = images
        self.project_folder = project_folder
        self.work = work
        self.containers: list[Container] = []
        self.started: list[str] = []
        self._publishers: list[subprocess.Popen[bytes]] = []
        self._looks: dict[str, Future[bool]] = {}
        self._pool = ThreadPoolExecutor(2)
        (work / "logs").mkdir(parents=True)
        # With the signal at the death of its parent, not even a killed test run leaves anything behind.
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        hold = "mount -t tmpfs tmpfs /run && ip link set lo up && echo ready && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *unshare, "/bin/sh", "-c", hold],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError("no namespace")
        (inside,) = psutil.Process(self._holder.pid).children()
        self.enter = ["/usr/bin/nsenter", "--target", str(inside.pid), "--mount", "--net", "--pid", "--"]
        self._make_networks()

    def up(
        self, names: Iterable[str] | None = None, *, scale: dict[str, int] | None = None, seconds: float = 120
    ) -> None:
        """
        Start services and all that they depend on; return when the started are healthy, or have done their work.

        :param names: as on the command line of `docker compose up`; all of the active profiles when it is None
        :param scale: containers per service, where it is not what the file says
        :raises ContainerEndedError: a container has ended that should run, or failed at its work
        :raises TimeoutError: after the deadline; the message names who is not healthy, with its last check and log
        """
        wanted = self.project.closure(self.project.services if names is None else names)
        for name in wanted:
            for number in range(1, (scale or {}).get(name, self.project.services[name].replicas) + 1):
                if not any(one.name == f"{name}-{number}" for one in self.containers):
                    self._make(self.project.services[name], number)
        deadline = time.monotonic() + seconds
        self._looks.clear()
        fine: set[str] = set()
        while len(fine) < len(wanted):
            for name in wanted:
                if name not in self.started and self._may_start(name, fine):
                    self.started.append(name)
                    for container in self.of(name):
                        container.start()
                        self._publish(container)
            for name in self.started:
                if name in wanted and name not in fine and self._is_fine(name):
                    fine.add(name)
            if time.monotonic() > deadline:
                late = [name for name in wanted if name not in fine]
                logs = "\n".join(
                    f"--- {one.name}: {one.last_look}\n{one.tail()}" for name in late for one in self.of(name)
                )
                raise TimeoutError(f"after {seconds:g} s these are not healthy: {late}\n{logs}")
            time.sleep(0.2)

    def run_again(self, name: str, seconds: float = 120) -> str:
        """Run a service that has done its work once more, in a fresh container; return what it wrote."""
        (container,) = self.of(name)
        shutil.rmtree(container.root)
        container.log.unlink()
        container.start()
        deadline = time.monotonic() + seconds
        while (code := container.ended()) is None:
            assert time.monotonic() < deadline, container.tail()
            time.sleep(0.2)
        assert code == 0, container.tail()
        return container.log.read_text()

    def of(self, name: str) -> list[Container]:
        """Return the containers of a service."""
        return [container for container in self.containers if container.service.name == name]

    def volume(self, name: str, owner: tuple[int, int]) -> Path:
        """Return the folder of a named volume; a new one belongs to the image's user, as docker does it."""
        folder = self.work / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, *owner)
        return folder

    def down(self) -> None:
        """End everything."""
        self._pool.shutdown(cancel_futures=True)
        for process in (*self._publishers, self._holder):
            process.kill()
            process.wait()

    def _may_start(self, name: str, fine: set[str]) -> bool:
        for needed, condition in self.project.services[name].depends_on.items():
            ended = [container.ended() for container in self.of(needed)] if needed in self.started else []
            if condition == "service_healthy":
                ready = needed in fine and all(code is None for code in ended)
            elif condition == "service_completed_successfully":
                ready = bool(ended) and all(code == 0 for code in ended)
            else:
                raise ComposeError(f"{name} depends on {needed} with the unknown condition {condition}")
            if not ready:
                return False
        return True

    def _is_fine(self, name: str) -> bool:
        """Return whether a service is healthy, or has done its work."""
        service = self.project.services[name]
        for container in self.of(name):
            code = container.ended()
            if code or (code == 0 and service.restart != "no"):
                raise ContainerEndedError(f"{container.name} has ended with {code}:\n{container.tail()}")
            if code is None and (service.restart == "no" or not self._is_healthy(container)):
                return False
        return True

    def _is_healthy(self, container: Container) -> bool:
        """Return whether a look at the container found it healthy; looks take place beside each other."""
        if container.name not in self._looks:
            self._looks[container.name] = self._pool.submit(container.is_healthy)
        look = self._looks[container.name]
        if look.done() and not look.result():
            del self._looks[container.name]
        return look.done() and look.result()

    def _make_networks(self) -> None:
        for index in range(len(self.project.networks)):
            make = [f"ip link add br{index} type bridge", f"ip addr add 172.30.{index}.1/24 dev br{index}"]
            self._run([*make, f"ip link set br{index} up"])

    def _make(self, service: Service, number: int) -> None:
        networks = list(self.project.networks)
        place = len(self.containers) + 2
        addresses = {name: f"172.30.{networks.index(name)}.{place}" for name in service.networks}
        container = Container(self, service, number, addresses)
        lines = [f"ip netns add {container.name}", f"ip -n {container.name} link set lo up"]
        for index, (network, address) in enumerate(addresses.items()):
            outside = f"v{place}n{index}"
            lines += [
                f"ip link add {outside} type veth peer name eth{index} netns {container.name}",
                f"ip link set {outside} master br{networks.index(network)} up",
                f"ip -n {container.name} addr add {address}/24 dev eth{index}",
                f"ip -n {container.name} link set eth{index} up",
            ]
        self._run(lines)
        self.containers.append(container)

    def _publish(self, container: Container) -> None:
        if container.service.published:
            address, outside, inside = container.service.published
            network = next(name for name in container.addresses if not self.project.networks[name].get("internal"))
            inside_of = self.enter[2]
            command = [sys.executable, str(Path(__file__).with_name("publish.py")), address, str(outside), inside_of]
            self._publishers.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *command, container.addresses[network], str(inside)]
                )
            )

    def _run(self, lines: list[str]) -> None:
        subprocess.run([*self.enter, "/bin/sh", "-ec", "\n".join(lines)], check=True)


def _user_of(service: Service) -> tuple[int, int]:
    if service.user is None:
        raise ComposeError(f"{service.name} names no user: it might run as root")
    if ":" in service.user:
        user, group = service.user.split(":")
        return int(user), int(group)
    entry = pwd.getpwnam(service.user)
    return entry.pw_uid, entry.pw_gid


def _bind(source: str, target: str, *, read_only: bool = False) -> list[str]:
    parent = f'mkdir -p "$R{Path(target).parent}"'
    make = f'mkdir -p "$R{target}"' if Path(source).is_dir() else f'{parent} && touch "$R{target}"'
    lines = [make, f'mount --bind {shlex.quote(source)} "$R{target}"']
    return [*lines, f'mount -o remount,bind,ro "$R{target}"'] if read_only else lines
