"""Runs code that a model wrote, in a cage: bubblewrap, no network, nothing to read, nothing to keep.

The code sees `/usr`, the Python installation (both read-only) and an empty `/tmp` in memory. It runs as nobody in
namespaces of its own, without network, environment, `/proc` or home, under limits on time, memory, processes, files
and output. When it ends or is stopped, everything it started ends with it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lemur.errors import SandboxError

_NOBODY = 65534
_LAUNCHER = """
import json, os, resource, sys
for name, value in json.loads(sys.argv[1]).items():
    resource.setrlimit(getattr(resource, name), (value, value))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs inside the cage: limits that bubblewrap itself has no option for, then the command."""
_INSTALL_HINT = (
    "install bubblewrap 0.8 or newer (Debian and Ubuntu: `sudo apt-get install bubblewrap`; "
    "Fedora: `sudo dnf install bubblewrap`), or leave out the benchmarks that run code"
)
_NAMESPACE_HINT = (
    "this kernel or container does not allow user namespaces; on a host, `sudo sysctl user.max_user_namespaces=15000` "
    "and, on Ubuntu 24.04 or newer, `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, "
    "run it with a seccomp profile that allows `unshare` and `mount`"
)


class Limits(NamedTuple):
    """What a run may use."""

    wall_seconds: float = 10.0
    """Time until it is stopped."""
    cpu_seconds: int = 10
    """Processor time of each process."""
    memory_bytes: int = 512 * 2**20
    """Address space of each process."""
    num_processes: int = 16
    """Processes and threads at a time."""
    disk_bytes: int = 16 * 2**20
    """Size of `/tmp`, which is memory, and of any one file."""
    output_bytes: int = 64 * 2**10
    """Output, of both streams together, until it is stopped."""


class Execution(NamedTuple):
    """How a run ended."""

    exit_code: int | None
    """Exit code, 128 + signal where a signal ended it, or `None` where it was stopped from outside."""
    output: str
    """What it wrote, both streams together, at most `Limits.output_bytes`."""
    stopped: Literal["", "time", "output"]
    """Which limit made us stop it, if one did."""
    seconds: float
    """How long it ran."""

    @property
    def complaint(self) -> str:
        """Why it failed, in one line: the last thing it said, or the limit it met; empty where it did not."""
        if self.stopped:
            return {"time": "ran too long", "output": "wrote too much"}[self.stopped]
        if self.exit_code == 0:
            return ""
        lines = self.output.strip().splitlines()
        return lines[-1][:200] if lines else f"ended with exit code {self.exit_code}"


class Sandbox:
    """A cage for commands; open one with `open_sandbox`.

    Args:
        bubblewrap: Path of `bwrap`.
    """

    def __init__(self, bubblewrap: str) -> None:
        self._bubblewrap = bubblewrap
        self._python = os.path.realpath(sys.executable)
        self._prefix = Path(os.path.realpath(sys.base_prefix))

    def run_python(self, source: str, limits: Limits | None = None) -> Execution:
        """Runs a Python program with the interpreter of this process and its standard library alone.

        Raises:
            SandboxError: The cage could not be set up.
        """
        return self.run([self._python, "-I", "-S", "-"], stdin=source.encode("utf-8", "replace"), limits=limits)

    def run(self, command: Sequence[str], *, stdin: bytes = b"", limits: Limits | None = None) -> Execution:
        """Runs a command.

        Args:
            command: Absolute path of a program below `/usr` or the Python installation, and its arguments.
            stdin: What it reads.
            limits: What it may use; `None` takes the defaults.

        Raises:
            SandboxError: The cage could not be set up.
        """
        limits = limits or Limits()
        started = time.monotonic()
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            status, status_end = os.pipe()
            with open(status, encoding="utf-8") as reports:
                try:
                    process = subprocess.Popen(
                        self._command(command, limits, status_end),
                        stdin=source,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        pass_fds=[status_end],
                        start_new_session=True,
                        cwd="/",
                    )
                finally:
                    os.close(status_end)
                output, stopped = _read(process, limits)
                report = reports.read()
        text = output.decode("utf-8", "replace")
        if not stopped and '"exit-code"' not in report:
            raise SandboxError(f"bubblewrap could not set up its sandbox: {text.strip()[:500]}; {_NAMESPACE_HINT}")
        return Execution(
            exit_code=None if stopped else process.returncode,
            output=text,
            stopped=stopped,
            seconds=time.monotonic() - started,
        )

    def _command(self, command: Sequence[str], limits: Limits, status: int) -> list[str]:
        resources = {
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_FSIZE": limits.disk_bytes,
            "RLIMIT_NPROC": limits.num_processes,
        }
        return [
            *self._become_nobody(),
            self._bubblewrap,
            *("--json-status-fd", str(status)),
            *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
            *("--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session"),
            *("--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox", "--cap-drop", "ALL"),
            *("--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"),
            *_system_folders(),
            *("--ro-bind", str(self._prefix), str(self._prefix)),
            # Single devices, because bubblewrap's own /dev is a writable tmpfs without a size limit.
            *(part for name in ("null", "zero", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
            *("--perms", "0700", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/"),
            *("--chdir", "/tmp", "--", self._python, "-I", "-S", "-c", _LAUNCHER, json.dumps(resources), *command),
        ]

    def _become_nobody(self) -> list[str]:
        """Returns what to put before the command so that not even its outer user is root.

        The kernel exempts root from the limit on processes, in a user namespace as well.
        """
        if os.geteuid() != 0:
            return []
        change_user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        closed = [folder for folder in self._prefix.parents if not folder.stat().st_mode & stat.S_IXOTH]
        if not closed:
            return change_user
        # Nobody cannot reach the interpreter, typically below /root: show it alone, through an empty folder on top.
        between = [folder for folder in reversed(self._prefix.parents) if folder.is_relative_to(closed[-1])]
        opened = [part for folder in between[1:] for part in ("--perms", "0755", "--dir", str(folder))]
        return [
            self._bubblewrap,
            # The process namespace makes it die as a whole: a dying parent without rights cannot signal nobody.
            *(
                "--die-with-parent",
                "--unshare-pid",
                "--bind",
                "/",
                "/",
                "--dev-bind",
                "/dev",
                "/dev",
                "--perms",
                "0755",
                "--tmpfs",
                str(between[0]),
                *opened,
            ),
            *("--ro-bind", str(self._prefix), str(self._prefix)),
            *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--", *change_user),
        ]


@functools.cache
def open_sandbox() -> Sandbox:
    """Returns a sandbox that was tried out on this machine.

    Raises:
        SandboxError: bubblewrap is missing or too old, or the kernel does not let it work; says what to do.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxError(
            f"code written by a model runs only in a sandbox, and bubblewrap is missing: {_INSTALL_HINT}"
        )
    shown = subprocess.run([bubblewrap, "--version"], capture_output=True, text=True, check=False).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", shown)[:2])
    if version < (0, 8):
        raise SandboxError(f"{bubblewrap} is {shown.strip()!r}, which lacks options that keep code in: {_INSTALL_HINT}")
    sandbox = Sandbox(bubblewrap)
    tried = sandbox.run_python("print('ready')")
    if tried.output != "ready\n":
        raise SandboxError(f"the sandbox does not run Python: {tried.complaint}; {_NAMESPACE_HINT}")
    return sandbox


def _system_folders() -> list[str]:
    """Returns options that show `/usr` and its aliases in the root, read-only, and nothing else of the system."""
    options = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for folder in (Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib64"), Path("/lib32")):
        if folder.is_symlink():
            options += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            options += ["--ro-bind", str(folder), str(folder)]
    return options


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, Literal["", "time", "output"]]:
    """Collects the output until the process ends or has to be stopped, and leaves no process behind."""
    deadline = time.monotonic() + limits.wall_seconds
    output = bytearray()
    stopped: Literal["", "time", "output"] = ""
    assert process.stdout is not None
    try:
        with process.stdout as stream, selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not stopped:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    stopped = "time"
                elif chunk := os.read(stream.fileno(), 65536):
                    output += chunk
                    stopped = "output" if len(output) > limits.output_bytes else ""
                else:
                    break
        if not stopped:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # It closed its output and runs on.
                stopped = "time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return bytes(output[: limits.output_bytes]), stopped
