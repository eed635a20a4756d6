"""A chat endpoint without a model: it answers with questions that people wrote, from a SQuAD-style file (CMRC 2018).

    python examples/from_documents/recorded_endpoint.py documents cmrc2018_trial.json --output docs
    python examples/from_documents/recorded_endpoint.py serve cmrc2018_trial.json --port 8000 --trouble 0.2

`documents` writes each paragraph of the file as a Markdown file; `serve` answers requests for such a passage, as an
OpenAI-compatible server does. With --trouble a share of requests fails as servers fail: 429, 500, an answer that is cut
off, an answer that is garbage. So the whole way from documents to a model can be walked where no model can be reached.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from zh_embedder.text.words import letters

Answer = Callable[[str], str]  # from the last message of a request
Trouble = Callable[[int], str | None]  # from the number of a request; None: all is well
TROUBLES = ("429", "500", "cut", "garbage")


class Endpoint(ThreadingHTTPServer):
    """The server; `requests` are the bodies that came, `troubles` what went wrong."""

    daemon_threads = True

    def __init__(self, answer: Answer, trouble: Trouble = lambda number: None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.trouble = answer, trouble
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.troubles: Counter[str] = Counter()
        self.usage, self.delay = True, 0.0
        self.lock, self.busy, self.most_busy = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        """What --base_url wants."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Endpoint:
        """Begin to answer."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Endpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a chat request, or fail as asked for."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
            trouble = self.server.trouble(number)
            self.server.troubles[trouble or "none"] += 1
        time.sleep(self.server.delay)
        try:
            self.respond(body, trouble)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def respond(self, body: Mapping[str, Any], trouble: str | None) -> None:
        """Send what is due."""
        if (
            trouble is not None and trouble.partition(":")[0].isdecimal()
        ):  # 429, or 401:a message, or 429:code:a message
            self.fail(trouble)
            return
        text = "对不起，我不明白。" if trouble == "garbage" else self.server.answer(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if self.server.usage else None
        if body.get("stream"):
            self.send_stream(text, usage, cut=trouble == "cut")
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "length" if trouble == "length" else "stop"}
            self.send_json(200, {**HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}, trouble)

    def fail(self, trouble: str) -> None:
        """Send an error as OpenAI's servers do."""
        status, _, rest = trouble.partition(":")
        code, _, message = rest.rpartition(":")
        error = {"message": message or "trouble", "type": "trouble", "code": code or None}
        self.send_json(int(status), {"error": error}, None)

    def send_json(self, status: int, value: object, trouble: str | None) -> None:
        """Send an object; `cut`: only half of what the header promises; `html`: a page instead."""
        raw = b"<html>maintenance</html>" if trouble == "html" else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status == 429:
            self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if trouble == "cut" else raw)
        if trouble == "cut":
            self.close_connection = True

    def send_stream(self, text: str, usage: object, *, cut: bool) -> None:
        """Send the answer in pieces; `cut`: the connection ends in the middle."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = [text[at : at + 8] for at in range(0, len(text), 8)]
        for piece in pieces[: len(pieces) // 2] if cut else pieces:
            self.event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        if cut:
            self.close_connection = True
            return
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage:
            self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, value: Mapping[str, Any]) -> None:
        """Send one piece."""
        self.chunk(f"data: {json.dumps({**HEAD, 'object': 'chat.completion.chunk', **value})}\n\n".encode())

    def chunk(self, raw: bytes) -> None:
        """Send one chunk."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))


HEAD = {"id": "chat-1", "created": 0, "model": "recorded"}


def paragraphs(path: Path) -> list[dict[str, Any]]:
    """Read the paragraphs of a SQuAD-style file."""
    return [own for article in json.loads(path.read_text("utf-8"))["data"] for own in article["paragraphs"]]


def recorded(path: Path) -> Answer:
    """Return what answers with the recorded questions whose paragraph and answer are in the prompt."""
    known = [(letters(own["context"]), own["qas"]) for own in paragraphs(path)]

    def answer(prompt: str) -> str:
        plain = letters(prompt)
        found = [
            {"query": qa["question"], "answer": qa["answers"][0]["text"]}
            for context, qas in known
            if any(context[at : at + 40] in plain for at in range(0, max(1, len(context) - 40), 40))
            for qa in qas
            if letters(qa["answers"][0]["text"]) in plain
        ]
        return json.dumps({"queries": found}, ensure_ascii=False)

    return answer


def write_documents(path: Path, folder: Path) -> int:
    """Write each paragraph as a Markdown file; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    every = paragraphs(path)
    for own in every:
        (folder / f"{own['id']}.md").write_text(own["context"] + "\n", "utf-8")
    return len(every)


def troubles(share: float, seed: int = 0) -> Trouble:
    """Return what makes a share of requests fail, by their number."""

    def trouble(number: int) -> str | None:
        rng = random.Random(f"{seed}-{number}")
        return rng.choice(TROUBLES) if rng.random() < share else None

    return trouble


def main() -> None:
    """Run from a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("documents", "serve"))
    parser.add_argument("file", type=Path, help="SQuAD-style JSON")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="of documents (docs)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--trouble", type=float, default=0.0, help="share of requests that fail (0)")
    args = parser.parse_args()
    if args.what == "documents":
        sys.stdout.write(f"{write_documents(args.file, args.output)} documents in {args.output}\n")
        return
    server = Endpoint(recorded(args.file), troubles(args.trouble), args.port)
    sys.stdout.write(f"answering at {server.url}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.stdout.write(f"{len(server.requests)} requests: {dict(server.troubles)}\n")


if __name__ == "__main__":
    main()
