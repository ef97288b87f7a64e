"""The launcher as a process: signals, orphans, pipes, exit codes, the termination log and the status port."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kubequant.api.conditions import Reason
from kubequant.planning.engines.termination import parse_termination
from tests.unit.launcher.programs import FILES, LOGS, finish, launch, python, replay, start, wait_until

POLITE = """
import signal, sys, time
def stop(number, frame):
    print("ERROR 01-01 00:00:00 [x.py:1] RuntimeError: noise of a stop", file=sys.stderr)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("up", flush=True)
time.sleep(60)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_was_asked_for_is_passed_on_and_clean(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path / "log", *python(POLITE))
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    ended = finish(process, tmp_path / "log")
    assert ended.code == 0
    assert b"noise of a stop" in ended.stderr, "what the child says while it stops is echoed"
    assert ended.text == "", "and is no cause"


def test_a_child_without_handlers_that_was_asked_to_stop_is_clean_too(tmp_path: Path) -> None:
    process = start(tmp_path / "log", *python("import time; print('up', flush=True); time.sleep(60)"))
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert finish(process, tmp_path / "log").code == 0


def test_a_cause_from_before_the_stop_is_kept(tmp_path: Path) -> None:
    source = "import sys, time; print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 80.00 MiB.', flush=True); time.sleep(60)"
    process = start(tmp_path / "log", *python(source))
    wait_until(lambda: (tmp_path / "log").stat().st_size > 0, "the early message")
    process.terminate()
    ended = finish(process, tmp_path / "log")
    assert (ended.code, ended.message["reason"]) == (0, "GpuOutOfMemory")


def test_the_message_is_there_while_the_engine_still_runs_and_in_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 5000)
    inode = log.stat().st_ino
    source = "import time; print('OSError: [Errno 28] No space left on device', flush=True); time.sleep(60)"
    process = start(log, *python(source))
    wait_until(lambda: "DiskFull" in log.read_text(), "the early message")
    assert process.poll() is None
    told = parse_termination(log.read_text())
    assert told is not None
    assert told.reason is Reason.DISK_FULL
    assert log.stat().st_ino == inode, "the file is a bind mount: written in place"
    process.kill()
    finish(process, log)


def test_a_grandchild_that_holds_the_pipe_open_does_not_hold_the_end_up(tmp_path: Path) -> None:
    source = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
print(child.pid, flush=True)
sys.exit(3)
"""
    begun = time.monotonic()
    process = start(tmp_path / "log", *python(source))
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    try:
        assert process.wait(timeout=10) == 3
        assert time.monotonic() - begun < 8
        os.kill(grandchild, 0)  # it is still there, with the pipe
    finally:
        os.kill(grandchild, signal.SIGKILL)
        finish(process, tmp_path / "log")


ORPHAN = """
import os, sys, time
if os.fork() == 0:      # the child in the middle ends at once: its child is an orphan
    if os.fork() == 0:
        time.sleep(0.2)
        print("orphan", os.getpid(), flush=True)
        os._exit(0)
    os._exit(0)
os.wait()
time.sleep(60)
"""


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """The launcher is made a subreaper here, as PID 1 is one by nature."""
    log = tmp_path / "log"
    log.touch()
    set_subreaper = 36  # PR_SET_CHILD_SUBREAPER, kept across exec
    process = subprocess.Popen(
        [sys.executable, str(FILES / "launcher.py"), "--termination-log", str(log), "--", *python(ORPHAN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(set_subreaper, 1, 0, 0, 0),
    )
    assert process.stdout is not None
    orphan = int(process.stdout.readline().split()[1])
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan to be reaped (a zombie keeps its /proc entry)")
    assert process.poll() is None, "and the end of an orphan is not the end of the engine"
    process.terminate()
    finish(process, log)


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs root: a PID namespace of its own")
def test_as_pid_1_it_stops_when_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    source = "import os; print(os.getppid(), flush=True)\n" + POLITE
    launcher = (sys.executable, str(FILES / "launcher.py"))
    process = subprocess.Popen(
        ["unshare", "--fork", "--pid", "--kill-child", *launcher, "--termination-log", str(log), "--", *python(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n", "the launcher is PID 1"
    assert process.stdout.readline() == b"up\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert finish(process, log).code == 0


def test_exit_0_that_nobody_asked_for_is_a_failure(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", *python("print('INFO:     Application startup complete.')"))
    assert ended.code == 70
    assert ended.message["reason"] == "WorkerKilled"


def test_exit_0_before_the_engine_was_ready_is_no_killed_worker(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", *python("print('usage: vllm')"))
    assert (ended.code, ended.message["reason"]) == (70, "EngineFailed")
    assert ended.message["details"]["tail"] == ["usage: vllm"]


KILL_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_killed_engine_is_told_apart_from_one_that_ran_out_of_memory(tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    events = cgroup / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 2\n")
    options = ("--cgroup", str(cgroup))
    killed = launch(tmp_path / "killed", *python(KILL_ITSELF), options=options)
    assert (killed.code, killed.message["reason"]) == (137, "WorkerKilled")
    source = f"open({str(events)!r}, 'w').write('low 0\\noom 1\\noom_kill 3\\n')\n{KILL_ITSELF}"
    out_of_memory = launch(tmp_path / "oom", *python(source), options=options)
    assert (out_of_memory.code, out_of_memory.message["reason"]) == (137, "ContainerOutOfMemory")


def test_a_crash_names_its_signal(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", *python("import os; os.abort()"))
    assert ended.code == 128 + signal.SIGABRT
    assert ended.message["reason"] == "EngineFailed"
    assert "signal 6" in ended.message["message"]


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", "/no/such/vllm", "serve")
    assert ended.code == 127
    assert "/no/such/vllm" in ended.message["message"]


def test_output_is_echoed_byte_for_byte(tmp_path: Path) -> None:
    source = r"import sys; sys.stdout.buffer.write(b'\xff\x00a\rb' + b'x' * 300000 + b'end'); sys.stderr.buffer.write(b'err')"
    ended = launch(tmp_path / "log", *python(source))
    assert ended.stdout == b"\xff\x00a\rb" + b"x" * 300000 + b"end"
    assert ended.stderr == b"err"


def test_a_last_line_without_an_end_is_read(tmp_path: Path) -> None:
    ended = launch(
        tmp_path / "log",
        *python("import sys; sys.stderr.write('vllm: error: unrecognized arguments: --x'); sys.exit(2)"),
    )
    assert (ended.code, ended.message["details"]["arguments"]) == (2, "--x")


def test_a_termination_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", *python("import sys; sys.exit(4)"), options=("--termination-log", str(tmp_path)))
    assert ended.code == 4
    assert b"cannot write" in ended.stderr


def test_secrets_stay_out_of_the_message(tmp_path: Path) -> None:
    source = """
import sys
print("OSError: tokens hf_secretOfTheEnvironment1 sesame-of-the-arguments and hf_abcdefghijklmnopqrst", file=sys.stderr)
print("https://user:pass-in-url@hub.example/x with second-sesame and Bearer abc.def", file=sys.stderr)
sys.exit(1)
"""
    command = (*python(source), "--api-key", "sesame-of-the-arguments", "second-sesame", "--port", "8000")
    ended = launch(tmp_path / "log", *command, HF_TOKEN="hf_secretOfTheEnvironment1", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    for secret in ("secretOfTheEnvironment1", "sesame", "abcdefghijklmnopqrst", "pass-in-url", "abc.def"):
        assert secret not in ended.text
    assert "***" in ended.message["message"]
    assert b"sesame-of-the-arguments" in ended.stderr, "the echo is unchanged"


def get(port: int, path: str = "/status") -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        document = json.load(answer)
    assert isinstance(document, dict)
    return document


def test_the_status_port_says_what_the_log_said(tmp_path: Path) -> None:
    port = free_port()
    source = f"""
import time
for number, line in enumerate(open({str(LOGS / "healthy-0.19.log")!r})):
    if number:
        print(line, end="", flush=True)
time.sleep(60)
"""
    process = start(tmp_path / "log", *python(source), options=("--port", str(port)))
    try:

        def ready() -> bool:
            try:
                return get(port)["phase"] == "Ready"
            except OSError:
                return False

        wait_until(ready, "phase Ready")
        assert get(port) == {
            "version": 1,
            "phase": "Ready",
            "engine_version": "0.25.1",
            "weights_gib": 11.0802,  # the larger of the two ranks
            "available_kv_cache_gib": 2.28,  # the smaller
            "kv_cache_tokens": 75840,
            "max_concurrency": 2.48,
            "kernel": "MacheteLinearKernel",
            "attention_backend": "FLASH_ATTN",
            "peak_activation_gib": None,
            "cuda_graphs_gib": 0.51,
            "cause": None,
        }
        assert (tmp_path / "log").read_text() == "", "noise that contains 'error' is no cause"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/metrics")
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/status", data=b"{}", timeout=5)
    finally:
        process.terminate()
        finish(process, tmp_path / "log")


def test_a_port_that_is_taken_does_not_stop_the_engine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = launch(tmp_path / "log", *python("print('ran')"), options=("--port", str(port)))
    assert ended.stdout == b"ran\n"
    assert b"no status on port" in ended.stderr


def test_the_oldest_python_that_an_image_may_have_parses_them() -> None:
    for path in FILES.glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))


def test_the_one_line_form_of_newer_versions(tmp_path: Path) -> None:
    ended = launch(tmp_path / "log", *replay("healthy-0.33", 1))
    details = ended.message["details"]
    assert (details["kv_cache_tokens"], details["max_concurrency"]) == (32768, 32.0)
    assert (details["kernel"], details["engine_version"]) == ("CPUWNA16LinearKernel", "0.32.0")


def test_nothing_is_started_while_the_model_is_not_whole(tmp_path: Path) -> None:
    """A cache volume may have been emptied under a pod: its engine would fail with words that nobody understands."""
    model = tmp_path / "model"
    model.mkdir()
    ended = launch(tmp_path / "log", *python("print('started')"), options=("--model", str(model)))
    assert ended.code == 75
    assert b"started" not in ended.stdout
    assert ended.message["reason"] == "VolumePending"
    (model / ".kubequant-complete.json").write_text("{}")
    whole = launch(tmp_path / "log-2", *python("print('started')"), options=("--model", str(model)))
    assert b"started" in whole.stdout
