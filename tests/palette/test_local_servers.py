"""Servers that run on this machine already, answered for by fakes that answer as those do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.cli.local_servers import Search, server_at

OLLAMA = {
    "object": "list",
    "data": [
        {"id": "llama3.2:3b", "object": "model", "created": 1730000000, "owned_by": "library"},
        {"id": "qwen2.5:7b", "object": "model", "created": 1730000000, "owned_by": "library"},
    ],
}
LM_STUDIO = {
    "data": [{"id": "qwen2.5-7b-instruct", "object": "model", "owned_by": "organization_owner"}],
    "object": "list",
}
LLAMA_CPP = {
    "models": [{"name": "gemma.gguf", "model": "gemma.gguf", "type": "model"}],
    "object": "list",
    "data": [{"id": "gemma.gguf", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8192}}],
}
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
VLLM = {
    "object": "list",
    "data": [{"id": LLAMA, "object": "model", "owned_by": "vllm", "root": LLAMA, "max_model_len": 8192}],
}


@contextmanager
def answering(body: Any, status: int = 200, seconds: float = 0, path: str = "/v1/models") -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(status if self.path == path else 404)
            if status == 302:
                self.send_header("Location", "http://example.org/v1/models")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "body", "models"),
    [
        ("Ollama", OLLAMA, ("llama3.2:3b", "qwen2.5:7b")),
        ("LM Studio", LM_STUDIO, ("qwen2.5-7b-instruct",)),
        ("llama.cpp", LLAMA_CPP, ("gemma.gguf",)),
        ("vLLM", VLLM, (LLAMA,)),
    ],
)
def test_each_is_known_by_its_models_whatever_its_port(name, body, models) -> None:
    with answering(body) as port:
        server = server_at("something", port)
    assert server is not None and (server.name, server.models) == (name, models)
    assert server.url == f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>Tomcat</html>", 200),
        ({"data": []}, 200),
        ({"hello": 1}, 200),
        ([], 200),
        (OLLAMA, 500),
        (OLLAMA, 302),
    ],
)
def test_what_is_no_model_server_is_passed_over(body, status) -> None:
    with answering(body, status) as port:
        assert server_at("vLLM", port) is None


def test_a_closed_port_and_a_slow_one_cost_little() -> None:
    with answering(OLLAMA, seconds=5) as slow, answering(VLLM) as quick:
        start = time.monotonic()
        found = Search({"Ollama": slow, "closed": 1, "vLLM": quick}).servers()
        took = time.monotonic() - start
    assert [server.name for server in found] == ["vLLM"]
    assert took < 3, "as long as one timeout, not as long as the server takes"


def test_doctor_says_what_runs_and_how_to_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(OLLAMA) as port:
        monkeypatch.setattr(Search.__init__, "__defaults__", ({"Ollama": port},))
        done = CliRunner().invoke(main, ["doctor"])
    assert f"runs at http://127.0.0.1:{port}/v1 with llama3.2:3b, qwen2.5:7b" in done.output
    assert f"palette ask --base-url http://127.0.0.1:{port}/v1 --model 'openai:llama3.2:3b'" in done.output


def test_ask_says_so_after_the_answer(monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    with answering(LM_STUDIO) as port:
        monkeypatch.setattr(Search.__init__, "__defaults__", ({"LM Studio": port},))
        arguments = ["ask", "-c", "KEN", "--no-stream", "Tea?"]
        told = CliRunner().invoke(main, arguments)
        silent = CliRunner().invoke(main, [*arguments, "--json"])
    flag = f"palette ask --base-url http://127.0.0.1:{port}/v1 asks it."
    assert (
        f"LM Studio runs here with qwen2.5-7b-instruct: {flag}" in told.stderr
        and "LM Studio" not in silent.output
    )
