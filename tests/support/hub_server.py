"""A small server that serves models as the Hub does, and lets files be tampered with and connections be cut. For tests.

Two origins, as in reality: the Hub itself answers for what a repository holds, and sends large files' readers on to a
storage elsewhere, which knows byte ranges and must never see a token.
"""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_reader"
LARGE_BYTES = 1000


@dataclass
class Repo:
    """A repository: its commits, newest last, each with its files."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False


@dataclass
class Hub:
    """The server's state, which a test may change while it runs.

    Attributes:
        repos: Repositories by name.
        tampered: What the storage sends in place of a file, by the true content's SHA-256.
        lies: Sizes that the listing states in place of the true ones, by path.
        cuts: After how many bytes of its answer the storage closes the connection; one entry per answer.
        cut_always: The same for every answer.
        status: Answered by the Hub to everything.
        pause_after: The storage sends so many bytes, sets `paused`, and goes on once `released` is set.
        log: "hub" or "storage", method, path and headers (their names in lower case) of each request.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    tampered: dict[str, bytes] = field(default_factory=dict)
    lies: dict[str, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    cut_always: int | None = None
    status: int | None = None
    pause_after: int | None = None
    paused: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    log: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def add(self, repo: str, files: dict[str, bytes], *, gated: bool = False) -> str:
        """Adds a commit to a repository and returns its 40 digits."""
        entry = self.repos.setdefault(repo, Repo({}, gated))
        commit = hashlib.sha1(repr((repo, len(entry.commits), sorted(files))).encode()).hexdigest()
        entry.commits[commit] = dict(files)
        return commit

    def count(self, origin: str, method: str = "GET") -> int:
        return sum(entry[:2] == (origin, method) for entry in self.log)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    origin = ""
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code=None, message="refused"):
        headers = {"X_Error_Code": code} if code else {}
        self.answer(status, json.dumps({"error": message}).encode(), X_Error_Message=message, **headers)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.log.append((self.origin, self.command, self.path, headers))
        self.serve(unquote(urlsplit(self.path).path))


class _HubHandler(_Handler):
    origin = "hub"

    def serve(self, path):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.status is not None:
            self.refuse(self.hub.status)
            return
        if token not in ("", TOKEN):
            self.refuse(401, message="Invalid credentials in Authorization header")
            return
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
        else:
            owner, name, *rest = path[1:].split("/")
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            # Without a token the Hub does not say whether there is a private repository of that name.
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        commit = rest[1] if len(rest) > 1 and rest[1] != "main" else list(repo.commits)[-1]
        if commit not in repo.commits:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        files = repo.commits[commit]
        if not path.startswith("/api/models/"):
            self.resolve(repo, commit, "/".join(rest[2:]), files)
        elif rest[:1] == ["tree"]:
            self.tree(files)
        else:
            siblings = [{"rfilename": name} for name in files]
            self.send({"id": f"{owner}/{name}", "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def send(self, document):
        self.answer(200, json.dumps(document).encode(), Content_Type="application/json")

    def tree(self, files):
        entries = []
        for path, data in files.items():
            size = self.hub.lies.get(path, len(data))
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": oid, "size": size, "path": path}
            if len(data) >= LARGE_BYTES:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
            entries.append(entry)
        self.send(entries)

    def resolve(self, repo, commit, path, files):
        if repo.gated:
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
            return
        if path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        data = files[path]
        if len(data) < LARGE_BYTES:
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)
            return
        digest = hashlib.sha256(data).hexdigest()
        self.answer(
            302,
            Location=f"{self.hub.storage_url}/{digest}?signature=x",
            ETag=f'"{hashlib.md5(data).hexdigest()}"',
            X_Repo_Commit=commit,
            X_Linked_ETag=f'"{digest}"',
            X_Linked_Size=len(data),
        )


class _StorageHandler(_Handler):
    origin = "storage"

    def serve(self, path):
        assert parse_qs(urlsplit(self.path).query) == {"signature": ["x"]}
        digest = path[1:]
        contents = {
            hashlib.sha256(data).hexdigest(): data
            for repo in self.hub.repos.values()
            for files in repo.commits.values()
            for data in files.values()
        }
        data = self.hub.tampered.get(digest, contents[digest])
        start, headers = 0, {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        self.send_response(206 if wanted else 200)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cuts.pop(0) if self.hub.cuts else self.hub.cut_always
        if limit is not None:
            self.wfile.write(body[:limit])
            self.close_connection = True
            return
        pause = self.hub.pause_after
        if pause is not None:
            self.wfile.write(body[:pause])
            self.wfile.flush()
            body = body[pause:]
            self.hub.paused.set()
            self.hub.released.wait(120)
        self.wfile.write(body)


@contextmanager
def serve_hub():
    """Runs both origins on ports of their own while the block runs; yields the state."""
    hub = Hub()
    servers = []
    for kind in (_HubHandler, _StorageHandler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(kind.__name__, (kind,), {"hub": hub}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        hub.released.set()
        for server in servers:
            server.shutdown()
            server.server_close()
