"""A hub of models on loopback: the part of Hugging Face's and of ModelScope's API that downloads need, and its faults.

Two hubs at one address: Hugging Face's paths are `/api/models/...` and `/NAME/resolve/...` (weights by redirect, as
large files are served), ModelScope's begin with `/api/v1/models/`. A model's name decides what goes wrong with it.
"""

import hashlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
LARGE = ".safetensors"


@dataclass
class Fault:
    """What is wrong with a model."""

    status: int | None = None  # of every answer, with `code` in its header
    code: str | None = None
    token: str | None = None  # whoever brings none gets 401
    slow: float = 0  # seconds before an answer about the model
    stalls: float = 0  # seconds in the middle of the weights
    cut: int = 0  # so many answers with weights end in the middle, by a connection that closes
    short: bool = False  # weights come as half of themselves, and the header says that this is all
    only: str = ""  # of the files whose names hold this


@dataclass
class Hub:
    """A running hub: its models, their faults, and what it was asked."""

    models: dict[str, Path] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)  # "GET /path" -> how often
    tokens: set[tuple[str, str]] = field(default_factory=set)  # host, token
    sent: Counter[str] = field(default_factory=Counter)  # name/file -> bytes of it that were sent
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def add(self, name: str, folder: Path, **fault: object) -> str:
        """Serve a folder as a model; returns its name."""
        self.models[name], self.faults[name] = folder, Fault(**fault)
        return name

    def large(self, name: str, file: str) -> str:
        """Where a large file is: at a host of another name, to which no token may go."""
        return f"{self.address.replace('127.0.0.1', 'localhost')}/cdn/{name}/{file}"

    def files(self, name: str) -> dict[str, bytes]:
        """Content of each file of a model."""
        folder = self.models[name]
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Server(ThreadingHTTPServer):
    """Clients that give up are not this server's mistakes."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Show no traceback of a connection that its client has left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Find out who is asked for, and whether that fails."""
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.hub.lock:
            self.hub.asked[f"{self.command} {path}"] += 1
            if token := self.headers.get("Authorization", "").removeprefix("Bearer "):
                self.hub.tokens.add((self.headers.get("Host", "").partition(":")[0], token))
        try:
            if found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)(/.*)?", path):
                self.modelscope(found[1], found[2] or "", query)
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+).*)?", path):
                self.hugging_face(found[1], found[2] or "revision")
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.resolve(found[1], found[3])
            elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
                self.send(found[1], found[2], self.hub.files(found[1])[found[2]])
            else:
                self.say(404, {"error": "no such page"})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def fails(self, name: str, file: str = "") -> bool:
        """Answer with the fault of a model, where it has one that this request meets."""
        fault = self.hub.faults.get(name)
        if fault is None:
            # As Hugging Face's hub does: who brings no token cannot tell what is private from what is not there.
            code = 404 if "Authorization" in self.headers else 401
            self.say(code, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return True
        if fault.only not in file:
            return False
        if fault.slow:
            self.hub.stopped.wait(fault.slow)
        if fault.token and not self.has_token(fault.token):
            code = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."}
            self.say(401, {"error": "gated"}, code)
            return True
        if fault.status:
            self.say(fault.status, {"error": "fault"}, {"X-Error-Code": fault.code} if fault.code else {})
            return True
        return False

    def has_token(self, token: str) -> bool:
        """Whether the token came along, in Hugging Face's place or ModelScope's."""
        places = (self.headers.get("Authorization", ""), self.headers.get("Cookie", ""))
        return any(token in place for place in places)

    # ---- Hugging Face ------------------------------------------------------------------------------------------------

    def hugging_face(self, name: str, kind: str) -> None:
        """Tell of a model, or list its files."""
        if self.fails(name):
            return
        files = self.hub.files(name)
        if kind == "revision":
            siblings = [{"rfilename": file} for file in files]
            self.say(200, {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            return
        entries = []
        for file, content in files.items():
            entry = {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if file.endswith(LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        self.say(200, entries)

    def resolve(self, name: str, file: str) -> None:
        """Give a file, or say where it is."""
        if self.fails(name, file):
            return
        content = self.hub.files(name).get(file)
        if content is None:
            self.say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif file.endswith(LARGE):
            tag = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": COMMIT}
            self.say(302, {}, {**linked, "ETag": f'"{tag}"', "Location": self.hub.large(name, file)})
        else:
            self.send(name, file, content)

    # ---- ModelScope --------------------------------------------------------------------------------------------------

    def modelscope(self, name: str, rest: str, query: dict[str, str]) -> None:
        """Tell of a model, list its files, or give one."""
        if name not in self.hub.models:
            self.say(404, {"Code": 10010205001, "Message": "Record not found", "Success": False})
        elif self.fails(name, query.get("FilePath", "")):
            return
        elif rest == "/repo/files":
            files = [
                {"Path": file, "Name": Path(file).name, "Type": "blob", "Size": len(content)}
                | {"Sha256": hashlib.sha256(content).hexdigest()}
                for file, content in self.hub.files(name).items()
            ]
            self.say(200, {"Code": 200, "Success": True, "Data": {"Files": files}})
        elif rest == "/repo":
            content = self.hub.files(name).get(query["FilePath"])
            if content is None:
                self.say(404, {"Code": 404, "Message": "no such file", "Success": False})
            else:
                self.send(name, query["FilePath"], content)
        else:
            self.say(200, {"Code": 200, "Success": True, "Data": {"Name": name.partition("/")[2], "Id": 1}})

    # ---- what is sent ------------------------------------------------------------------------------------------------

    def say(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(key, text)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send(self, name: str, file: str, content: bytes) -> None:
        """Send a file, or the rest of it, whole or as the model's fault has it."""
        fault = self.hub.faults[name]
        tag, total = hashlib.sha256(content).hexdigest(), len(content)
        large, start = file.endswith(LARGE), 0
        if large and fault.short:
            content = content[: total // 2]
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(found[1]), int(found[2] or len(content) - 1)
            content = content[start : end + 1]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.hub.lock:
            is_cut = large and fault.cut > 0
            fault.cut -= is_cut
        if is_cut or (large and fault.stalls):
            half = content[: len(content) // 2]
            self.note(name, file, half)
            self.wfile.write(half)
            self.wfile.flush()
            self.close_connection = True
            if not fault.stalls:
                return
            self.hub.stopped.wait(fault.stalls)
            content = content[len(half) :]
        self.note(name, file, content)
        self.wfile.write(content)

    def note(self, name: str, file: str, content: bytes) -> None:
        """Count what is sent."""
        with self.hub.lock:
            self.hub.sent[f"{name}/{file}"] += len(content)


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub without models on a free port of loopback."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("Bound", (Answer,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
