"""Server processes: they come up, they say why they do not, and none is left behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lemur.errors import ServingError
from lemur.plugins import discover
from lemur.serving.process import server_process
from lemur.serving.runtimes.transformers import TransformersRuntime
from lemur.serving.runtimes.vllm import VllmRuntime

QUICK_SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": sys.argv[2]}]}).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""Answers like a model server and starts at once."""

LAUNCHER = """
import sys, time
from pathlib import Path
from lemur.serving.process import free_port, server_process
port = free_port()
command = [sys.executable, "-c", sys.argv[1], str(port), "m"]
with server_process(command, name="m", port=port, log=Path(sys.argv[2]), ready_seconds=60) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 15
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def quick(*arguments: str) -> list[str]:
    return [sys.executable, "-c", QUICK_SERVER, *arguments]


def test_a_server_answers_while_the_context_lasts_and_is_gone_after_it(model_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with TransformersRuntime(kind="transformers", max_length=64).serving(model_folder, name="t", log=log) as url:
        host = url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(host)
        connection.request("GET", "/v1/models")
        (model,) = json.loads(connection.getresponse().read())["data"]
        assert (model["id"], model["max_model_len"]) == ("t", 64)
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(host).connect()
    assert "serving t" in log.read_text()


def test_a_folder_without_a_model_is_refused_with_the_servers_own_words(tmp_path: Path) -> None:
    runtime = TransformersRuntime(kind="transformers")
    with (
        pytest.raises(ServingError, match=r"(?s)'t' ended with status 8.*has no config.json") as caught,
        runtime.serving(tmp_path, name="t", log=tmp_path / "server.log"),
    ):
        pass
    assert str(tmp_path / "server.log") in str(caught.value)


@pytest.mark.parametrize("trouble", ["weights cut short", "weights of another model", "too long"])
def test_a_model_that_does_not_fit_is_refused_when_it_is_loaded(
    model_folder: Path, tmp_path: Path, trouble: str
) -> None:
    from lemur.serving.model import load_model

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    if trouble == "weights cut short":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:2000])
        expected = "cannot be loaded"
    elif trouble == "weights of another model":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
        expected = "do not fit its config.json: missing keys: model.layers.2"
    else:
        expected = "max length 10000 is more than the 256 tokens"
    with pytest.raises(ServingError, match=expected):
        load_model(folder, max_length=10_000 if trouble == "too long" else None)


def test_a_taken_port_is_told_before_the_model_is_loaded(model_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = TransformersRuntime(kind="transformers").command(model_folder, name="t", host="127.0.0.1", port=port)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == ServingError.exit_code
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_a_server_that_never_answers_is_stopped_and_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"]
    log = tmp_path / "log"
    with (
        pytest.raises(ServingError, match=r"(?s)'slow' was not ready after 1 s.*pid \d+"),
        server_process(command, name="slow", port=free(), log=log, ready_seconds=1),
    ):
        pass
    assert wait_until_gone(int(log.read_text().split()[1]))


def test_another_models_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    port = free()
    with (
        pytest.raises(ServingError, match=f"port {port} is answered by a server of other, not of 'mine'"),
        server_process(quick(str(port), "other"), name="mine", port=port, log=tmp_path / "log", ready_seconds=30),
    ):
        pass


def test_a_server_that_ignores_the_request_to_end_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemur.serving.process._STOP_SECONDS", 0.5)
    stubborn = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('pid', child.pid, flush=True)\n"
    )
    port, log = free(), tmp_path / "log"
    command = [sys.executable, "-c", stubborn + QUICK_SERVER, str(port), "m"]
    with server_process(command, name="m", port=port, log=log, ready_seconds=30) as process:
        child = int(log.read_text().split()[1])
        assert is_running(child)
    assert not is_running(process.pid)
    assert wait_until_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_no_server_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, QUICK_SERVER, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    server = int(launcher.stdout.readline())
    assert is_running(server)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    assert wait_until_gone(server)


def test_vllms_command_line_names_what_the_recipe_says() -> None:
    runtime = VllmRuntime(
        kind="vllm", tensor_parallel_size=8, max_length=4096, extra_arguments=["--enable-prefix-caching"]
    )
    command = runtime.command(Path("/models/lemur"), name="lemur", host="0.0.0.0", port=8000)
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    pairs = dict(zip(command[3:-1:2], command[4:-1:2], strict=True))
    assert pairs == {
        "--model": "/models/lemur",
        "--served-model-name": "lemur",
        "--host": "0.0.0.0",
        "--port": "8000",
        "--tensor-parallel-size": "8",
        "--gpu-memory-utilization": "0.9",
        "--dtype": "auto",
        "--max-model-len": "4096",
    }
    assert command[-1] == "--enable-prefix-caching"


def test_vllm_that_is_not_installed_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(ServingError, match=r"vLLM is not installed: `pip install vllm`.*kind: transformers"),
        VllmRuntime(kind="vllm").serving(tmp_path, name="m", log=tmp_path / "log"),
    ):
        pass


def test_both_runtimes_are_found_by_their_kind() -> None:
    assert {"transformers", "vllm"} <= set(discover("lemur.serving.runtimes"))


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
