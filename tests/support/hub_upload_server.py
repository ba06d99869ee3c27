"""A small server that takes uploads as the Hub does: repositories, pre-upload, LFS objects, commits. For tests."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import yaml

TOKEN = "hf_writer"
READER = "hf_reader"
LARGE_BYTES = 10_000


class UploadHub:
    """What was uploaded, by repository: files as committed, and the visibility asked for."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def log_message(self, format, *args):
        pass

    def _answer(self, status, body=None, **headers):
        data = json.dumps(body or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self):
        """Whether the caller's token does not do."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READER):
            self._answer(401, {"error": "Invalid username or password."})
        elif token == READER:
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace."})
        else:
            return False
        return True

    def do_GET(self):
        self.hub.requests.append(f"GET {self.path}")
        self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def do_PUT(self):
        self.hub.requests.append(f"PUT {self.path}")
        data = self._body()
        digest = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(data).hexdigest() == digest
        self.hub.objects[digest] = data
        self._answer(200)

    def do_POST(self):
        self.hub.requests.append(f"POST {self.path}")
        data = self._body()
        if self.path == "/api/validate-yaml":
            front = json.loads(data)["content"].split("---\n")[1]
            assert isinstance(yaml.safe_load(front), dict)
            return self._answer(200, {"warnings": [], "errors": []})
        if self._refuse():
            return None
        if self.path == "/api/repos/create":
            return self._create(json.loads(data))
        repo = "/".join(self.path.removeprefix("/api/models").lstrip("/").split("/")[:2]).removesuffix(".git")
        if repo not in self.hub.repos:
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if "/preupload/" in self.path:
            files = json.loads(data)["files"]
            modes = {file["path"]: "lfs" if file["size"] > LARGE_BYTES else "regular" for file in files}
            return self._answer(200, {"files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
            ]})  # fmt: skip
        if self.path.endswith("/objects/batch"):
            objects = json.loads(data)["objects"]
            return self._answer(200, {"transfer": "basic", "objects": [self._action(item) for item in objects]})
        if "/commit/" in self.path:
            return self._commit(repo, data)
        return self._answer(404)

    def _create(self, wanted):
        repo = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "nobody":
            return self._answer(404, {"error": "Namespace not found"})
        status = 409 if repo in self.hub.repos else 200
        if status == 200:
            self.hub.repos[repo] = {}
            self.hub.visibility[repo] = wanted.get("visibility") or ("private" if wanted.get("private") else "public")
        return self._answer(status, {"url": f"{self.hub.url}/{repo}", "error": "You already created this model repo"})

    def _action(self, item):
        known = item["oid"] in self.hub.objects
        upload = {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}
        return item | ({} if known else {"actions": upload})

    def _commit(self, repo, data):
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.objects[value["oid"]]
        commit = hashlib.sha1(data).hexdigest()
        return self._answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})


@contextmanager
def serve_uploads():
    """Yields an `UploadHub` that listens on a free port of this machine."""
    hub = UploadHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
