"""A W&B server on the loopback device: enough for the real client, and a record of what it got."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StoredRun:
    group: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass
class Service:
    url: str = ""
    runs: dict[str, StoredRun] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    """Path and body of every request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Ignore clients that were killed."""


@contextmanager
def serve():
    service = Service()
    server = _Server(("127.0.0.1", 0), _handler(service))
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(service):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            pass

        def do_POST(self):
            body = self._body()
            if self.path == "/graphql":
                request = json.loads(body)
                self._send({"data": _answer(service, request["query"], request["variables"])})
            elif self.path.endswith("/file_stream"):
                _store(service.runs[self.path.split("/")[-2]], json.loads(body))
                self._send({})
            else:
                self._send({})

        def do_PUT(self):
            self._body()
            self._send({})

        def do_GET(self):
            self._send({})

        def _body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            service.received.append(self.path.encode() + b"\n" + body)
            return body

        def _send(self, content):
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def _answer(service, query, given):
    """Answer the GraphQL operations of a run; any other gets an empty answer."""
    if "upsertBucket" in query:
        run = service.runs.setdefault(given["name"], StoredRun())
        run.group = given.get("groupName") or run.group
        run.name = given.get("displayName") or run.name
        if given.get("config"):
            run.config = {k: v["value"] for k, v in json.loads(given["config"]).items()}
        if given.get("summaryMetrics"):
            run.summary = json.loads(given["summaryMetrics"])
        bucket = {**_bucket(given["name"], run), "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "RunResumeStatus" in query:
        known = service.runs.get(given["name"])
        return {
            "model": {
                "id": "m",
                "name": "p",
                "entity": {"id": "e", "name": "team"},
                "bucket": _resumable(given["name"], known) if known else None,
            }
        }
    if "viewer" in query:
        viewer = {"id": "v", "entity": "team", "username": "u", "flags": "{}", "email": ""}
        return {"viewer": {**viewer, "teams": {"edges": []}}}
    if "createRunFiles" in query:
        return {
            "createRunFiles": {
                "runID": "r",
                "uploadHeaders": [],
                "files": [
                    {"name": name, "uploadUrl": f"{service.url}/upload/{name}"}
                    for name in given["files"]
                ],
            }
        }
    return {}


def _bucket(run_id, run):
    project = {"id": "m", "name": "p", "entity": {"id": "e", "name": "team"}}
    return {
        "id": f"{run_id}-stored",
        "name": run_id,
        "displayName": run.name,
        "description": None,
        "config": json.dumps({}),
        "sweepName": None,
        "project": project,
    }


def _resumable(run_id, run):
    return {
        "name": run_id,
        "id": f"{run_id}-stored",
        "historyLineCount": len(run.history),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": "[]",
        "summaryMetrics": json.dumps(run.summary),
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "tags": [],
        "displayName": run.name,
        "wandbConfig": json.dumps({"t": 1}),
    }


def _store(run, stream):
    files = stream.get("files") or {}
    history = files.get("wandb-history.jsonl")
    if history:
        del run.history[history["offset"] :]
        run.history += [json.loads(line) for line in history["content"]]
    if "wandb-summary.json" in files:
        run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
    if stream.get("complete"):
        run.exit_code = stream["exitcode"]
