"""A loopback server that answers what the real wandb client asks when it reads a group's runs."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def wandb_run(name, summary, *, attempt=1, state="finished", **config):
    """A run as wandb's GraphQL returns it, named as train/tracking/tracker.py names it."""
    return {
        "id": f"{name}-{attempt}-stored",
        "name": f"{name}-a{attempt}",
        "displayName": name,
        "state": state,
        "group": "tunnel",
        "config": json.dumps({key: {"value": value} for key, value in config.items()}),
        "summaryMetrics": json.dumps(summary),
        "systemMetrics": "{}",
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "projectId": "1",
        "tags": [],
        "user": {"name": "n", "username": "u"},
        "readOnly": False,
        "historyLineCount": 3,
        "historyKeys": None,
        "jobType": None,
        "sweepName": None,
        "commit": None,
        "description": None,
        "notes": None,
    }


@contextmanager
def serve(runs, *, projects=("team/wind",), key_works=True):
    """Yield the server's address and the list of what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/graphql":  # wandb's telemetry
                self._send(200, {})
                return
            request = json.loads(body)
            asked.append(request)
            if not key_works:
                self._send(401, {"errors": [{"message": "user is not logged in"}]})
            elif "runs(" in request["query"]:
                self._send(200, {"data": {"project": self._project(request["variables"])}})
            else:
                viewer = {"id": "v", "entity": "team", "username": "u", "flags": "{}"}
                self._send(200, {"data": {"viewer": {**viewer, "teams": {"edges": []}}}})

        def _project(self, variables):
            if f"{variables['entity']}/{variables['project']}" not in projects:
                return None
            wanted = json.loads(variables["filters"])
            found = [run for run in runs if all(run[key] == wanted[key] for key in wanted)]
            first = int(variables.get("cursor") or 0)
            page = found[first : first + variables["perPage"]]
            edges = [{"node": run, "cursor": str(first + k + 1)} for k, run in enumerate(page)]
            more = first + len(page) < len(found)
            return {
                "internalId": "1",
                "runCount": len(found),
                "readOnly": False,
                "runs": {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": more}},
            }

        def _send(self, status, content):
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
