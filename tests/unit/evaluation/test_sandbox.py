"""The cage holds whatever a model may write."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lemur.errors import SandboxError
from lemur.evaluation.sandbox import Limits, Sandbox, open_sandbox


def test_a_program_runs_and_its_output_and_exit_code_come_back(sandbox: Sandbox) -> None:
    ran = sandbox.run_python("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)")
    assert ran.exit_code == 3
    assert set(ran.output.split()) == {"out", "err"}
    assert not ran.stopped


def test_the_standard_library_works_and_so_do_threads(sandbox: Sandbox) -> None:
    ran = sandbox.run_python(
        "import json, hashlib, threading, subprocess, tempfile, ctypes, sqlite3, decimal\n"
        "open('note', 'w').write('kept for a moment')\n"
        "thread = threading.Thread(target=lambda: print(open('note').read()))\n"
        "thread.start(); thread.join()\n"
    )
    assert ran.output == "kept for a moment\n"


def test_an_error_is_told_in_one_line(sandbox: Sandbox) -> None:
    assert sandbox.run_python("x = 1 / 0").complaint == "ZeroDivisionError: division by zero"
    assert sandbox.run_python("pass").complaint == ""


def test_it_runs_as_nobody_and_sees_no_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret-value")
    ran = sandbox.run_python("import os\nprint(os.getuid(), os.getgid(), os.getgroups())\nprint(dict(os.environ))")
    assert ran.output.startswith("65534 65534")
    assert "secret" not in ran.output
    assert "API_KEY" not in ran.output


def test_loopback_and_every_other_address_are_out_of_reach(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ran = sandbox.run_python(
            "import socket\n"
            f"for address in [('127.0.0.1', {port}), ('169.254.169.254', 80), ('1.1.1.1', 53)]:\n"
            "    try:\n"
            "        socket.create_connection(address, timeout=2)\n"
            "        print('reached', address)\n"
            "    except OSError:\n"
            "        print('refused')\n"
        )
    assert ran.output == "refused\n" * 3


def test_files_of_the_machine_cannot_be_read(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret-value")
    secret.chmod(0o644)
    places = [str(secret), "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/environ", "/sys", "~/.ssh"]
    ran = sandbox.run_python(
        "import os\n"
        f"for place in {[*places, str(Path.home() / '.bashrc'), os.getcwd()]!r}:\n"
        "    place = os.path.expanduser(place)\n"
        "    print(os.path.exists(place), end=' ')\n"
        "os.symlink('/etc/passwd', '/tmp/link')\n"
        "print(os.path.exists('/tmp/link'), end=' ')\n"
    )
    assert set(ran.output.split()) == {"False"}


def test_nothing_outside_its_own_folder_can_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    targets = [str(tmp_path / "x"), "/x", "/usr/x", "/usr/bin/python3", "/etc/x", "/dev/x", "/var/x", sys.executable]
    ran = sandbox.run_python(
        f"for target in {targets!r}:\n"
        "    try:\n"
        "        open(target, 'w')\n"
        "        print('wrote', target)\n"
        "    except OSError:\n"
        "        print('refused')\n"
    )
    assert ran.output == "refused\n" * len(targets)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_share_nothing(sandbox: Sandbox) -> None:
    sandbox.run_python("open('/tmp/left', 'w').write('x')")
    assert sandbox.run_python("import os; print(os.listdir('/tmp'))").output == "[]\n"


def test_a_fork_bomb_meets_the_limit_on_processes_and_leaves_none_behind(sandbox: Sandbox) -> None:
    marker = f"bomb{os.getpid()}"
    ran = sandbox.run(
        ["/usr/bin/env", f"MARK={marker}", os.path.realpath(sys.executable), "-I", "-S", "-c", _FORK_BOMB, marker],
        limits=Limits(wall_seconds=2),
    )
    assert ran.stopped == "time"
    _wait_for(lambda: _num_processes(marker) == 0)


_FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_no_more_processes_than_allowed_are_ever_alive(sandbox: Sandbox) -> None:
    ran = sandbox.run_python(
        "import os, time\n"
        "started = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(60)\n"
        "        started += 1\n"
        "except OSError:\n"
        "    print(started)\n",
        Limits(num_processes=8),
    )
    assert 0 < int(ran.output) < 8
    assert ran.seconds < 10


def test_a_memory_bomb_fails_alone(sandbox: Sandbox) -> None:
    ran = sandbox.run_python("held = []\nwhile True:\n    held.append(bytearray(10_000_000))")
    assert ran.exit_code == 1
    assert ran.complaint == "MemoryError"


def test_a_full_disk_is_its_own_disk(sandbox: Sandbox) -> None:
    ran = sandbox.run_python(
        "number = 0\n"
        "try:\n"
        "    while True:\n"
        "        open(f'/tmp/{number}', 'wb').write(bytes(1_000_000))\n"
        "        number += 1\n"
        "except OSError as error:\n"
        "    print(number, error.strerror)\n",
        Limits(disk_bytes=4_000_000),
    )
    assert ran.output == "3 No space left on device\n"


@pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(600)"])
def test_a_program_that_does_not_end_is_stopped(sandbox: Sandbox, source: str) -> None:
    ran = sandbox.run_python(source, Limits(wall_seconds=0.5))
    assert (ran.exit_code, ran.stopped, ran.complaint) == (None, "time", "ran too long")
    assert ran.seconds < 3


def test_closing_the_output_does_not_win_time(sandbox: Sandbox) -> None:
    ran = sandbox.run_python("import os, time\nos.close(1); os.close(2)\ntime.sleep(600)", Limits(wall_seconds=0.5))
    assert ran.stopped == "time"


def test_a_flood_of_output_is_cut_and_stopped(sandbox: Sandbox) -> None:
    ran = sandbox.run_python("while True: print('x' * 1000)", Limits(output_bytes=10_000))
    assert ran.stopped == "output"
    assert len(ran.output) == 10_000
    assert ran.seconds < 5


def test_it_cannot_end_or_slip_out_of_its_cage(sandbox: Sandbox) -> None:
    ran = sandbox.run_python(
        "import ctypes, os, signal\n"
        "for pid in (1, os.getppid(), -1):\n"
        "    try:\n"
        "        os.kill(pid, 0)\n"
        "    except OSError:\n"
        "        pass\n"
        "libc = ctypes.CDLL(None)\n"
        "new_user, new_mount = 0x10000000, 0x00020000\n"
        "print(libc.unshare(new_user), libc.unshare(new_mount), libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))\n"
        "try:\n"
        "    os.setuid(0)\n"
        "except OSError:\n"
        "    print('stays nobody')\n"
    )
    assert ran.output == "-1 -1 -1\nstays nobody\n"


def test_killing_the_caller_kills_the_program(sandbox: Sandbox) -> None:
    marker = f"orphan{os.getpid()}"
    script = (
        "import os, sys\n"
        "from lemur.evaluation.sandbox import Limits, open_sandbox\n"
        "python = os.path.realpath(sys.executable)\n"
        "command = [python, '-I', '-S', '-c', 'import time; time.sleep(60)', os.environ['MARK']]\n"
        "open_sandbox().run(command, limits=Limits(wall_seconds=60))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "MARK": marker})
    try:
        _wait_for(lambda: _num_processes(marker) > 0)
    finally:
        caller.kill()
        caller.wait()
    _wait_for(lambda: _num_processes(marker) == 0)


def test_without_bubblewrap_nothing_runs_and_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    open_sandbox.cache_clear()
    try:
        with pytest.raises(SandboxError, match=r"apt-get install bubblewrap.*dnf install bubblewrap"):
            open_sandbox()
    finally:
        open_sandbox.cache_clear()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo bubblewrap 0.6.1", r"'bubblewrap 0.6.1', which lacks options.*apt-get install"),
        (
            'case "$*" in *--version*) echo bubblewrap 0.9.0;; *) echo "bwrap: No permissions to create new '
            'namespace"; exit 1;; esac',
            "No permissions to create new namespace.*max_user_namespaces",
        ),
    ],
)
def test_an_old_bubblewrap_and_a_kernel_that_refuses_are_told_apart(
    script: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    open_sandbox.cache_clear()
    try:
        with pytest.raises(SandboxError, match=message):
            open_sandbox()
    finally:
        open_sandbox.cache_clear()


def _num_processes(marker: str) -> int:
    """Counts processes of this machine whose command line holds a text."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            found += marker in path.read_bytes().decode(errors="replace")
    return found


def _wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
