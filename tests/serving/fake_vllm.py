"""Stands in for vLLM's command line: `python fake_vllm.py serve MODEL --port ... `; starts in no time.

FAKE_VLLM says what goes wrong: "dies" (with a traceback), "memory", "hangs" (never answers), "deaf" (ends on
SIGKILL only), "strange" (serves other models), "slow" (answers after a second).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def value(flag: str) -> str:
    return sys.argv[sys.argv.index(flag) + 1]


def loras() -> list[str]:
    if "--lora-modules" not in sys.argv:
        return []
    words = itertools.takewhile(lambda word: "=" in word, sys.argv[sys.argv.index("--lora-modules") + 1 :])
    named = [word.partition("=")[0] for word in words]
    # Our plug-in gives the base its name.
    return [*named, "base"] if "--additional-config" in sys.argv else named


FAULT = os.environ.get("FAKE_VLLM", "")
KEY = os.environ.get("VLLM_API_KEY")
MODELS = ["gpt-4"] if FAULT == "strange" else [value("--served-model-name"), *loras()]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            return self.reply(200, b"")
        if KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.reply(401, b'{"error": "Unauthorized"}')
        self.reply(200, json.dumps({"data": [{"id": name} for name in MODELS]}).encode())

    def do_POST(self) -> None:
        """What came, by whom it was answered; an event at a time when a stream is asked for."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        echo = {"path": self.path, "key": self.headers.get("Authorization"), "pid": os.getpid(), "got": asked}
        time.sleep(asked.get("seconds", 0))
        if not asked.get("stream"):
            return self.reply(asked.get("status", 200), json.dumps(echo).encode())
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(3):
            self.wfile.write(f"data: {json.dumps(echo | {'number': number})}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.3)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: object) -> None:
        pass


if __name__ == "__main__":
    print(
        "environment:",
        *sorted(name for name in os.environ if name.startswith(("PALETTE", "OPENAI"))),
        flush=True,
    )
    if FAULT == "dies":
        print(f"loading with {KEY}", flush=True)
        raise ValueError("the checkpoint has no layer 7")
    if FAULT == "memory":
        sys.exit("No available memory for the cache blocks.")
    # As vLLM does, the work is another process', which does not end with this one.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if FAULT == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if FAULT == "hangs":
        time.sleep(600)
    if FAULT == "slow":
        time.sleep(1)
    ThreadingHTTPServer((value("--host"), int(value("--port"))), Handler).serve_forever()
