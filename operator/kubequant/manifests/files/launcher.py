"""PID 1 of the engine's container: starts vLLM, watches what it says, and says why it ended.

    python3 /kubequant/launcher.py --port 8001 -- vllm serve /models/model --port 8000 ...

It runs in the engine's own image: Python >= 3.9, the standard library, this file. It cannot import kubequant; what it
says is read by `kubequant.planning.engines.termination`, where the contract is written down.

- Output of the engine is echoed as it comes, byte for byte.
- Signals are passed on to the engine's first process; orphans are reaped; the end is the end of that process and not of
  the pipe, which a grandchild may hold open.
- vLLM's last line is only "Engine core initialization failed. See root cause above". The cause stands further up, in a
  line of EngineCore or Worker. It is written to the termination log in place (the file is a bind mount) as soon as it
  is seen, and again at the end.
- The same facts are served on a second port: GET /status.

Exit codes: the engine's own; 128 + n after a signal that nobody asked for; 0 after a stop that was asked for;
70 (EX_SOFTWARE) for an exit 0 that nobody asked for, which is how vLLM ends when a worker is killed; 75 (EX_TEMPFAIL) when
the model is not there as a whole; 127 when the command cannot be started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

VERSION = 1
LIMIT_BYTES = 4096  # the kubelet keeps the last 4,096 bytes of a termination message
LINE_BYTES = 16 * 1024  # longer lines are echoed whole, and read up to here
TEXT_CHARS = 600  # of one engine line in the message
TAIL_LINES = 12
CAUSE_SECONDS = 60.0  # a running engine dies within seconds of a fatal error; what it logged earlier is no cause
DRAIN_SECONDS = 2.0  # for output still in the pipes after the engine has ended
QUIET_SECONDS = 0.2
EXIT_UNASKED = 70
EXIT_NOT_STARTED = 127
EXIT_INCOMPLETE = 75  # EX_TEMPFAIL
MARKER = ".kubequant-complete.json"  # what download.py writes last
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)


class Cause(NamedTuple):
    """Why the engine ended. `rank` orders causes that were seen: the first of the highest rank counts."""

    rank: int
    reason: str
    message: str
    details: dict[str, Any]


SPECIFIC, KILLED, LOGGED, PRINTED = 4, 3, 2, 1


class Rule(NamedTuple):
    """A text of the engine and what it means. Named groups become details; `advice` is what a person does about it."""

    reason: str
    pattern: re.Pattern[str]
    advice: str


def rule(reason: str, pattern: str, advice: str) -> Rule:
    return Rule(reason, re.compile(pattern), advice)


# The order matters only where two match one line: the first counts. Texts are those of vLLM 0.10 to 0.33.
RULES = (
    rule(
        "EngineFailed",
        r"Insufficient space in /dev/shm[^:]*: (?P<required_mib>\d+) MiB required, (?P<free_mib>\d+) MiB free",
        "Shared memory is too small: give the pod a larger emptyDir of medium Memory at /dev/shm.",
    ),
    rule(
        "EngineFailed",
        r"shared memory segment /dev/shm/\S+ \(size (?P<required_bytes>\d+)\).*No space left on device",
        "Shared memory is too small: give the pod a larger emptyDir of medium Memory at /dev/shm.",
    ),
    rule(
        "GpuOutOfMemory",
        r"CUDA out of memory\. Tried to allocate (?P<tried_to_allocate>[\d.]+ [KMGT]?i?B)\."
        r"(?: GPU (?P<gpu>\d+) has a total capac\w+ of (?P<total>[\d.]+ [KMGT]?i?B)"
        r" of which (?P<free>[\d.]+ [KMGT]?i?B|0 bytes) is free)?",
        "The GPU's memory ran out: use a larger GPU, more GPUs, or a smaller checkpoint.",
    ),
    rule(
        "GpuOutOfMemory",
        r"Free memory on device (?P<device>\S+ )?\((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) on startup is less than"
        r"[^(]*\((?P<utilization>[\d.]+), (?P<wanted_gib>[\d.]+) GiB\)",
        "Another process holds memory of this GPU: free it, or reserve that much (spec.gpu.reservedMemory).",
    ),
    rule(
        "GpuOutOfMemory", r"CUDA error: out of memory|OutOfMemoryError", "The GPU's memory ran out: use a larger GPU."
    ),
    rule(
        "KvCacheTooSmall",
        r"To serve at least one request with the models?'?s? max seq len \((?P<max_model_len>\d+)\),? \(?"
        r"(?P<needed_gib>[\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory "
        r"\((?P<available_gib>-?[\d.]+) GiB\)"
        r"(?:.*estimated maximum model length is (?P<estimated_max_model_len>\d+))?",
        "Ask for a shorter context, or a GPU with more memory.",
    ),
    rule(
        "KvCacheTooSmall",
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len",
        "The weights leave no memory for the KV cache: use a larger GPU, more GPUs, or a smaller checkpoint.",
    ),
    rule(
        "ModelNotFound",
        r"Invalid repository ID or local directory specified: '(?P<model>[^']*)'"
        r"|RepositoryNotFoundError|Repository Not Found for url"
        r"|does not appear to have a file named (?P<file>\S+?)\.? |is not a valid model identifier"
        r"|Can't load the configuration of",
        "The engine does not find the model: check that the download finished and that the repository has a config.json.",
    ),
    rule(
        "EngineArgumentRefused",
        r"^\S+(?: \S+)?: error: (?:unrecognized arguments: (?P<arguments>.*)|argument (?P<argument>\S+):.*|.*)$",
        "This engine version does not take the argument: remove it from spec.serving.engineArguments, or pin another engine version.",
    ),
    rule(
        "EngineArgumentRefused",
        r"User-specified max_model_len \((?P<max_model_len>\d+)\) is greater than the derived max_model_len"
        r" \((?:\w+=)?(?P<derived_max_model_len>\d+)",
        "Ask for a context that the model allows.",
    ),
    rule(
        "EngineArgumentRefused",
        r"Quantization method specified in the model config \((?P<stored>[^)]+)\) does not match"
        r".*quantization[`']? argument \((?P<asked>[^)]+)\)",
        "Leave --quantization out: the checkpoint itself says how it is quantised.",
    ),
    rule(
        "EngineArgumentRefused",
        r"attention heads \((?P<attention_heads>\d+)\) must be divisible by tensor parallel size"
        r" \((?P<tensor_parallel_size>\d+)\)"
        r"|World size \((?P<world_size>\d+)\) is larger than the number of available GPUs(?: \((?P<gpus>\d+)\))?"
        r"|No common block size for (?P<block_size>\d+)|max_num_batched_tokens \(.*must be greater"
        r"|FP8 KV cache is not supported by|FP8 KV cache on CPU requires|No valid attention backend found"
        r"|Bfloat16 is only supported on GPUs|Not enough allowed NUMA nodes",
        "This hardware or model does not take the argument: change it in spec, or use another GPU.",
    ),
    rule(
        "CheckpointRefused",
        r"Failed to find a kernel that can implement the (?P<layer>[\w ]+?) linear layer"
        r"|Forced \w+ kernel (?P<kernel>\w+) is not supported"
        r"|quantization method (?P<method>\S+) is not supported for the current GPU\. Minimum capability:"
        r" (?P<minimum_capability>\d+)\. Current capability: (?P<current_capability>\d+)"
        r"|not aligned with the quantized weight shape|is not divisible by weight quantization block"
        r"|_C::\w+\(\) expected at most|'_C' object has no attribute '(?P<operator>\w+)'",
        "No kernel of this engine takes the checkpoint on this GPU: use another checkpoint or another GPU.",
    ),
    rule(
        "CheckpointRefused",
        r"desc_act=True|Unknown quantization method|unknown quantization"
        r"|Following weights were not initialized from checkpoint|^KeyError: '[\w.]*layers\.\d+\.(?P<tensor>[\w.]+)'"
        r"|SafetensorError|Attempted to load weight|Model architectures \[.*\] (?:are not supported|failed)",
        "The engine cannot load the checkpoint: use another checkpoint, or an engine version that knows it.",
    ),
    rule(
        "DiskFull",
        r"No space left on device|Disk quota exceeded",
        "A volume of the pod is full: give it more space.",
    ),
    rule(
        "ContainerOutOfMemory",
        r"^MemoryError|Cannot allocate memory",
        "The container's memory ran out: raise its memory limit.",
    ),
    rule(
        "EngineArgumentRefused",
        r"Value error, .*",
        "The engine refuses its configuration: change the argument that it names.",
    ),
)

DIED = re.compile(r"(?P<process>[\w-]+) died unexpectedly(?: \(exit code: (?P<exit_code>-?\d+)\))?")
WRAPPERS = re.compile(
    r"See root cause above|See stack trace|EngineDeadError|initialization failed due to|validation errors? for \w+"
    r"|^(?:SystemExit|KeyboardInterrupt|asyncio\.\S*CancelledError)|RuntimeError: (?:cancelled|Executor failed)"
)
EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt|Exit)|Exception)(?::|$)")
EXCEPTION_NAME = re.compile(r"^(?:(?:\w+\.)*[A-Z]\w*(?:Error|Exception): |Value error, )")
PYDANTIC_END = re.compile(r" \[type=\w+, input_value=.*$")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
PREFIX = re.compile(
    r"^(?:\((?P<process>[A-Za-z_]+)[^()]*pid=\d+[^()]*\)\s?)*"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)

# What a healthy engine says of itself. GiB are those of one GPU.
FACTS = {
    "engine_version": re.compile(r"(?:LLM engine \(v|API server version |█  version )(?P<value>[\w.+]+)"),
    "weights_gib": re.compile(r"Model loading took (?P<value>[\d.]+) GiB"),
    "available_kv_cache_gib": re.compile(r"Available KV cache memory: (?P<value>-?[\d.]+) GiB"),
    "kv_cache_tokens": re.compile(r"KV cache size: (?P<value>[\d,]+) tokens"),
    "max_concurrency": re.compile(r"Maximum concurrency for [\d,]+ tokens per request: (?P<value>[\d.]+)x"),
    "kernel": re.compile(r"(?:Using|Selected) (?P<value>\w+Kernel) for "),
    "attention_backend": re.compile(r"Using (?:AttentionBackendEnum\.)?(?P<value>[A-Z0-9_]+) (?:attention )?backend\b"),
    "peak_activation_gib": re.compile(r"(?P<value>[\d.]+) GiB for peak activation"),
    "cuda_graphs_gib": re.compile(r"Graph capturing finished .* took (?P<value>-?[\d.]+) GiB"),
}
KEPT_WHEN_REPEATED = {  # tensor-parallel ranks repeat themselves: the tightest of them counts
    "weights_gib": max,
    "peak_activation_gib": max,
    "cuda_graphs_gib": max,
    "available_kv_cache_gib": min,
}
FIRST_COUNTS = {"kernel", "attention_backend", "engine_version"}
LOADING = re.compile(r"Starting to load model|Loading model from scratch|Loading safetensors checkpoint shards")
READY = re.compile(r"Application startup complete")


def number(text: str) -> int | float | str:
    """ "7,552" -> 7552, "0.9" -> 0.9; anything else stays text."""
    plain = text.replace(",", "")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(plain)
    return text


def shorten(text: str, chars: int = TEXT_CHARS) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


class Redactor:
    """Takes secrets out of text: values of environment variables and arguments that hold them, and what looks like a token."""

    NAMES = re.compile(r"(?:^|_)(?:TOKEN|API_KEY|SECRET|PASSWORD|ACCESS_KEY|SECRET_KEY)$")
    OPTIONS = ("--api-key", "--hf-token")
    SHAPES = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)")
    SWITCHES = frozenset(("", "0", "1", "true", "false", "yes", "no", "on", "off"))

    def __init__(self, environment: dict[str, str], arguments: list[str]) -> None:
        named = (value for name, value in environment.items() if self.NAMES.search(name))
        values = {value.strip() for value in (*named, *self._of(arguments))}
        # The longest first, so that one secret which begins another leaves no rest of it.
        self._values = sorted((v for v in values if v.lower() not in self.SWITCHES), key=len, reverse=True)

    @classmethod
    def _of(cls, arguments: list[str]) -> list[str]:
        found, inside = [], False
        for argument in arguments:
            if argument.startswith("-"):
                name, _, value = argument.partition("=")
                inside = name.replace("_", "-") in cls.OPTIONS
                if inside and value:
                    found.append(value)
            elif inside:  # --api-key takes several
                found.append(argument)
        return found

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return self.SHAPES.sub("***", text)


def encode(document: dict[str, Any]) -> bytes:
    """JSON in at most LIMIT_BYTES of UTF-8: older tail lines go first, then the longest texts are halved."""
    document = json.loads(json.dumps(document))  # a deep copy
    details = document["details"]
    while True:
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) <= LIMIT_BYTES:
            return data
        if details.get("tail"):
            details["tail"].pop(0)
            continue
        texts = [(document, "message"), *((details, key) for key, value in details.items() if isinstance(value, str))]
        holder, key = max(texts, key=lambda at: len(at[0][at[1]]))
        if len(holder[key]) <= 16:  # a crowd of details, which nothing here makes
            details.clear()
            continue
        holder[key] = shorten(holder[key], len(holder[key]) // 2)


def write_termination(path: str, document: dict[str, Any] | None) -> None:
    """Writes in place: the file is a bind mount, which can be neither replaced nor removed. None empties it."""
    data = b"" if document is None else encode(document)
    try:
        descriptor = os.open(path, os.O_WRONLY | (0 if Path(path).exists() else os.O_CREAT), 0o644)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)
    except OSError as error:  # losing the message must not end the engine
        say(f"cannot write {path}: {error}")


def termination(stage: str, reason: str, message: str, details: dict[str, Any]) -> dict[str, Any]:
    return {"kubequantTermination": VERSION, "stage": stage, "reason": reason, "message": message, "details": details}


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"kubequant: {text}\n".encode("utf-8", "replace"))


def specific_cause(text: str) -> Cause | None:
    """The cause that a known text states, with the numbers in it."""
    for reason, pattern, advice in RULES:
        match = pattern.search(text)
        if match:
            details = {key: number(value.strip()) for key, value in match.groupdict().items() if value is not None}
            line = shorten(PYDANTIC_END.sub("", EXCEPTION_NAME.sub("", text)).strip())
            return Cause(SPECIFIC, reason, f"{line.rstrip('.')}. {advice}", details)
    return None


def cause_in(line: str) -> Cause | None:
    """What one line says about why the engine ends, or None."""
    match = PREFIX.match(line)
    level = match.group("level") if match else None
    text = line[match.end() :] if match else line
    if level in ("DEBUG", "INFO", "WARNING"):
        return None
    died = DIED.search(text)
    if died:
        return killed_cause(died.group("process"), died.group("exit_code"))
    if WRAPPERS.search(text):
        return None
    specific = specific_cause(text.strip())
    if specific or not EXCEPTION.match(text):
        return specific
    return Cause(LOGGED if level else PRINTED, "EngineFailed", f"The engine failed: {shorten(text)}", {})


def killed_cause(process: str, exit_code: str | None) -> Cause | None:
    """A process of the engine that died. vLLM often reads its exit code too early, and prints None."""
    if exit_code is not None and int(exit_code) >= 0:
        return None  # it ended by an exception of its own, which stands in a line above
    if exit_code is None:
        text = f"{process} of the engine died, most likely killed. The engine is started again."
        return Cause(LOGGED, "WorkerKilled", text, {"process": process})  # no stronger than what it logged before
    number = -int(exit_code)
    text = f"{process} of the engine was killed (signal {number}). The engine is started again."
    return Cause(KILLED, "WorkerKilled", text, {"process": process, "signal": number})


class Digest:
    """What the engine's lines amount to. Pure: lines and times go in. Not thread-safe; Launcher holds the lock."""

    def __init__(self) -> None:
        self.phase = "Starting"  # Starting | Loading | Ready | Stopping
        self.facts: dict[str, Any] = dict.fromkeys(FACTS)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._was_ready = False
        self._cause: Cause | None = None
        self._cause_at = 0.0

    def feed(self, line: str, now: float) -> bool:
        """Takes one line in; True when the cause changed."""
        if not line.strip():
            return False
        self.tail.append(shorten(line, 240))
        self._read_facts(line)
        if self.phase == "Stopping":
            return False  # vLLM logs errors while it stops as it was asked to
        if self.phase == "Starting" and LOADING.search(line):
            self.phase = "Loading"
        if self.phase != "Ready" and READY.search(line):
            self.phase, self._was_ready, self._cause = "Ready", True, None  # what did not hinder the start is no cause
        return self._weigh(cause_in(line), now)

    def _read_facts(self, line: str) -> None:
        for name, pattern in FACTS.items():
            match = pattern.search(line)
            if not match or (name in FIRST_COUNTS and self.facts[name] is not None):
                continue
            value = match.group("value") if name in FIRST_COUNTS else number(match.group("value"))
            kept, known = KEPT_WHEN_REPEATED.get(name), self.facts[name]
            self.facts[name] = kept(known, value) if kept and known is not None else value

    def _weigh(self, cause: Cause | None, now: float) -> bool:
        current = self.cause(now)
        if cause is None or (current is not None and cause.rank <= current.rank):
            return False
        self._cause, self._cause_at = cause, now
        return True

    def cause(self, now: float) -> Cause | None:
        """The cause as known by now. Of a running engine, only what it logged a moment ago counts."""
        if self._cause and self._was_ready and now - self._cause_at > CAUSE_SECONDS:
            return None
        return self._cause

    def known_facts(self) -> dict[str, Any]:
        return {name: value for name, value in self.facts.items() if value is not None}


def oom_kills(cgroup: str) -> int | None:
    """How many processes the kernel killed in this container for want of memory; None where that cannot be read."""
    for name in ("memory.events", "memory/memory.oom_control"):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError), Path(cgroup, name).open() as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def verdict(code: int, asked: bool, oom_killed: bool, digest: Digest, now: float) -> tuple[int, Cause | None]:
    """The launcher's exit code and the cause to tell. `code` is the child's, negative for a signal."""
    cause = digest.cause(now)
    status = 128 - code if code < 0 else code
    if asked and status in (0, *(128 + number for number in STOP_SIGNALS)):
        return 0, cause  # a cause from before the stop: a probe gave up on an engine that had failed already
    if oom_killed and (cause is None or cause.rank < SPECIFIC):
        text = "A process of the engine was killed because the container's memory ran out: raise its memory limit."
        return status or EXIT_UNASKED, Cause(SPECIFIC, "ContainerOutOfMemory", text, {})
    return status or EXIT_UNASKED, cause or cause_of_exit(code, digest.phase)


def cause_of_exit(code: int, phase: str) -> Cause:
    """When no line told the cause."""
    if code == -signal.SIGKILL:
        return Cause(KILLED, "WorkerKilled", "The engine was killed (signal 9). It is started again.", {"signal": 9})
    if code == 0 and phase == "Ready":
        text = "The engine ended by itself with exit code 0, as vLLM does when a worker is killed."
        return Cause(KILLED, "WorkerKilled", text, {"exit_code": 0})
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Cause(PRINTED, "EngineFailed", f"The engine ended ({how}) and no line of it says why.", {"exit_code": code})


class Lines:
    """Cuts a byte stream into lines of bounded length. A carriage return ends a line too: progress bars."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        *whole, rest = re.split(rb"[\r\n]", self._rest + chunk)
        self._rest = rest[:LINE_BYTES]
        return [self._text(line) for line in whole]

    def flush(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    @staticmethod
    def _text(line: bytes) -> str:
        return ANSI.sub("", line[:LINE_BYTES].decode("utf-8", "replace"))


class StatusServer(socketserver.TCPServer):
    """Read only and bounded: one request at a time, five seconds each."""

    allow_reuse_address = True

    def __init__(self, port: int, status: Callable[[], dict[str, Any]]) -> None:
        self.status = status
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), StatusHandler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class StatusHandler(BaseHTTPRequestHandler):
    timeout = 5  # seconds
    server: StatusServer

    def do_GET(self) -> None:
        found = self.path == "/status"
        body = json.dumps(self.server.status() if found else {"error": "GET /status"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """The engine's log is the engine's."""


class Launcher:
    """The shell round the digest: one child, its two pipes, the signals, the termination log."""

    def __init__(self, command: list[str], termination_log: str, cgroup: str) -> None:
        self._command, self._path, self._cgroup = command, termination_log, cgroup
        self._redact = Redactor(dict(os.environ), command)
        self._digest, self._lock = Digest(), threading.Lock()
        self._child: int | None = None
        self._pending: deque[int] = deque()
        self._asked = False
        self._ended = threading.Event()

    def status(self) -> dict[str, Any]:
        with self._lock:
            cause = self._digest.cause(time.monotonic())
            told = {"reason": cause.reason, "message": cause.message} if cause else None
            return {"version": VERSION, "phase": self._digest.phase, **self._digest.facts, "cause": told}

    def run(self) -> int:
        """Starts the command, waits for it, and returns the exit code."""
        for number in PASSED_SIGNALS:
            signal.signal(number, self._on_signal)  # before the child: PID 1 has no default actions
        killed_before = oom_kills(self._cgroup)
        try:
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        except OSError as error:
            say(f"cannot start {self._command[0]}: {error}")
            self._tell(Cause(SPECIFIC, "EngineFailed", f"Cannot start {self._command[0]}: {error.strerror}.", {}))
            return EXIT_NOT_STARTED
        pump = threading.Thread(target=self._pump, args=(process,), daemon=True)
        pump.start()
        self._child = process.pid
        self._pass_on()
        process.returncode = code = self._wait(process.pid)
        self._child = None
        self._ended.set()
        pump.join(DRAIN_SECONDS + 1)
        killed = (oom_kills(self._cgroup) or 0) > (killed_before or 0)
        with self._lock:
            status, cause = verdict(code, self._asked, killed, self._digest, time.monotonic())
        self._tell(cause)
        return status

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._pending.append(number)
        if number in STOP_SIGNALS:
            self._asked = True
        self._pass_on()

    def _pass_on(self) -> None:
        while self._child is not None and self._pending:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self._child, self._pending.popleft())

    @staticmethod
    def _wait(child: int) -> int:
        """Reaps whatever ends, until the child does. Returns its code, negative for a signal."""
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == child:
                return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _pump(self, process: subprocess.Popen[bytes]) -> None:
        """Echoes both pipes and reads them, until they end or, once the child has, until they are quiet."""
        selector = selectors.DefaultSelector()
        for source, target in ((process.stdout, 1), (process.stderr, 2)):
            selector.register(source, selectors.EVENT_READ, (target, Lines()))  # type: ignore[arg-type]
        deadline = float("inf")
        while selector.get_map() and time.monotonic() < deadline:
            ready = selector.select(QUIET_SECONDS)
            if self._ended.is_set():
                deadline = min(deadline, time.monotonic() + DRAIN_SECONDS)
                if not ready:
                    break
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                self._take(chunk, *key.data)
                if not chunk:
                    selector.unregister(key.fileobj)
        for key in list(selector.get_map().values()):  # a last line without an end
            self._take(b"", *key.data)

    def _take(self, chunk: bytes, target: int, lines: Lines) -> None:
        echo(target, chunk)
        with self._lock:
            if self._asked:
                self._digest.phase = "Stopping"
            now = time.monotonic()
            fed = lines.feed(chunk) if chunk else lines.flush()
            news = [line for line in fed if self._digest.feed(self._redact(line), now)]
            cause = self._digest.cause(now)
        if news:
            self._tell(cause)

    def _tell(self, cause: Cause | None) -> None:
        if cause is None:
            write_termination(self._path, None)
            return
        details = {**self._digest.known_facts(), **cause.details}
        if cause.reason == "EngineFailed" and cause.rank < SPECIFIC:
            details["tail"] = list(self._digest.tail)
        write_termination(self._path, termination("engine", cause.reason, self._redact(cause.message), details))


def echo(target: int, chunk: bytes) -> None:
    """Writes everything. When nobody reads any more, the engine is still to be drained."""
    with contextlib.suppress(OSError):
        while chunk:
            chunk = chunk[os.write(target, chunk) :]


def serve_status(port: int, status: Callable[[], dict[str, Any]]) -> None:
    """A port that cannot be had is no reason to stop: the status is unknown then."""
    try:
        server = StatusServer(port, status)
    except OSError as error:
        say(f"no status on port {port}: {error}")
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="launcher.py", description="Starts an engine and says why it ended.")
    parser.add_argument("--port", type=int, help="serve GET /status here")
    parser.add_argument(
        "--termination-log", default=os.environ.get("KUBEQUANT_TERMINATION_LOG", "/dev/termination-log")
    )
    parser.add_argument("--model", help="a folder that download.py must have filled, or nothing is started")
    parser.add_argument("--cgroup", default="/sys/fs/cgroup", help="where the container's memory events stand")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the engine's command line")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command after --")
    if options.model and not Path(options.model, MARKER).is_file():
        message = "The cache volume does not hold the whole model yet. The engine is started again until it does."
        say(message)
        write_termination(options.termination_log, termination("engine", "VolumePending", message, {}))
        return EXIT_INCOMPLETE
    launcher = Launcher(command, options.termination_log, options.cgroup)
    if options.port is not None:
        serve_status(options.port, launcher.status)
    return launcher.run()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: a thread that waits on a pipe must not hold the end up
