"""Local servers for the tests, on real sockets: a file server that misbehaves on request, and a Hugging Face Hub."""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Clients that are killed or that give up are part of the tests; their broken connections are not reported."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self, reset: bool = False) -> None:
        self.wfile.flush()
        if reset:  # closing with a linger time of zero sends RST, which discards what the client has not read
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR) if not reset else self.connection.close()


class FileServer(_Server):
    """Serves `files` (path -> bytes) with ETag, ranges and If-Range, unless a fault is due.

    `faults[path]` is a queue of which each request for the path meets one: ("status", code, headers),
    ("truncate", n) (n bytes, then the end), ("reset", n) (n bytes, then a TCP reset), ("stall", n) (n bytes, then
    nothing until `release` is set), ("none",). `always[path]` is a fault that stays.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FileHandler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, deque] = defaultdict(deque)
        self.always: dict[str, tuple] = {}
        self.log: list[tuple[str, str]] = []  # path and Range header of each request
        self.release = threading.Event()
        self.ranges = True  # whether Range is honoured
        self.if_range = True  # whether If-Range is honoured
        self.shift = 0  # added to where a range should begin
        self.validators = True  # whether ETag is sent

    def ranges_asked(self, path: str) -> list[str]:
        """Range headers of the requests for `path`, in order; empty strings for requests without."""
        return [asked for logged, asked in self.log if logged == path]


class _FileHandler(_Handler):
    server: FileServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        asked = self.headers["Range"] or ""
        self.server.log.append((path, asked))
        faults = self.server.faults[path]
        kind, *details = (faults.popleft() if faults else self.server.always.get(path)) or ("none",)
        if kind == "status":
            return self.answer(details[0], b"<html>no</html>", **details[1])
        if path not in self.server.files:
            return self.answer(404)
        content = self.server.files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag} if self.server.validators else {}
        start = 0
        same = not self.server.if_range or self.headers["If-Range"] in (None, etag)
        if asked and self.server.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + self.server.shift
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if kind == "none":
            return self.answer(206 if start else 200, body, **headers)
        self.answer(206 if start else 200, body[: details[0]], Content_Length=str(len(body)), **headers)
        self.wfile.flush()
        if kind == "stall":
            self.server.release.wait(30)
        return self.hang_up(reset=kind == "reset")


class HubServer(_Server):
    """As much of a Hugging Face Hub as creating, uploading, downloading and asking about model repositories takes.

    Safetensors files go through Git LFS and are served by redirect from another origin, the rest from the repository
    itself. Writing, and reading private repositories, takes the bearer token `token`.
    """

    token = "hf_test"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repos: dict[str, dict] = {}  # id -> {"private": bool, "branches": {name: [commit, ...]}}
        self.commits: dict[str, dict[str, bytes]] = {}  # hash -> files
        self.objects: dict[str, bytes] = {}  # LFS: sha256 -> content
        self.log: list[str] = []  # "METHOD path"
        self.down = False  # whether everything is answered with 503

    def add_repo(self, repo_id: str, private: bool = False) -> None:
        self.repos[repo_id] = {"private": private, "branches": {}}
        self.commit(repo_id, "main", {})

    def commit(self, repo_id: str, branch: str, changes: dict[str, bytes]) -> str:
        commits = self.repos[repo_id]["branches"].setdefault(branch, [])
        files = {**(self.commits[commits[-1]] if commits else {}), **changes}
        text = json.dumps([repo_id, branch, len(self.commits), sorted(files)])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        commits.append(commit)
        return commit

    def resolve(self, repo_id: str, revision: str) -> str | None:
        """Commit that a branch or a full hash means; None if there is none."""
        branches = self.repos[repo_id]["branches"]
        if revision in branches:
            return branches[revision][-1]
        return revision if any(revision in commits for commits in branches.values()) else None


class _HubHandler(_Handler):
    server: HubServer

    def do_GET(self) -> None:
        self._route(
            (r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", self._info),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", self._tree),
            (r"/lfs/(?P<oid>\w{64})", lambda oid: self.answer(200, self.server.objects[oid], ETag=f'"{oid}"')),
        )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._route(
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda: self.json({"errors": [], "warnings": []})),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>.+)", self._branch),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)", self._preupload),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)", self._commit),
            (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/lfs/verify", lambda: self.json({})),
        )

    def do_PUT(self) -> None:
        self._route((r"/lfs/(?P<oid>\w{64})", self._lfs_put))

    def _route(self, *routes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.server.down:
            return self.answer(503)
        for pattern, action in routes:
            if found := re.fullmatch(pattern, path):
                return self._allowed(found) and action(**found.groupdict())
        return self.answer(404)

    def _allowed(self, found: re.Match) -> bool:
        """Answers, and says no, where the repository is absent or the token does not open it."""
        authorised = self.headers["Authorization"] == f"Bearer {self.server.token}"
        repo = found.groupdict().get("repo")
        absent = repo is not None and (
            repo not in self.server.repos or (self.server.repos[repo]["private"] and not authorised)
        )
        if absent:
            self.answer(401 if not authorised else 404, X_Error_Code="RepoNotFound")
        elif self.command == "POST" and not authorised:
            self.answer(401)
            absent = True
        return not absent

    def json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _resolved(self, repo: str, revision: str) -> str | None:
        commit = self.server.resolve(repo, revision)
        if commit is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        return commit

    def _file(self, repo: str, revision: str, file: str) -> None:
        commit = self._resolved(repo, revision)
        if commit is None:
            return
        content = self.server.commits[commit].get(file)
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        oid = hashlib.sha256(content).hexdigest()
        if file.endswith(".safetensors"):
            self.server.objects[oid] = content
            size, place = str(len(content)), f"http://localhost:{self.server.server_port}/lfs/{oid}"
            headers = {"X_Repo_Commit": commit, "X_Linked_ETag": f'"{oid}"', "X_Linked_Size": size, "Location": place}
            return self.answer(302, **headers)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.answer(200, content, X_Repo_Commit=commit, ETag=f'"{blob}"')

    def _info(self, repo: str, revision: str | None) -> None:
        commit = self._resolved(repo, revision or "main")
        if commit is not None:
            siblings = [self._sibling(name, data) for name, data in self.server.commits[commit].items()]
            private = self.server.repos[repo]["private"]
            self.json(
                {"id": repo, "modelId": repo, "sha": commit, "private": private, "tags": [], "siblings": siblings}
            )

    def _sibling(self, name: str, data: bytes) -> dict:
        """What the Hub says of a file, of large ones the hash of their content too."""
        if "blobs=" not in self.path:
            return {"rfilename": name}
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        facts = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith(".safetensors"):
            facts["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return facts

    def _tree(self, repo: str, revision: str) -> None:
        commit = self._resolved(repo, revision)
        if commit is not None:
            files = self.server.commits[commit].items()
            self.json([{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files])

    def _create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"user/{asked['name']}"
        existed = repo in self.server.repos
        if not existed:
            self.server.add_repo(repo, asked.get("private") or asked.get("visibility") == "private")
        self.json({"url": f"{self.server.url}/{repo}", "name": repo}, 409 if existed else 200)

    def _branch(self, repo: str, branch: str) -> None:
        branches = self.server.repos[repo]["branches"]
        if branch in branches:
            return self.json({"error": "exists"}, 409)
        branches[branch] = list(branches["main"])
        self.json({})

    def _preupload(self, repo: str, revision: str) -> None:
        modes = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        if self._resolved(repo, revision) is not None:
            self.json({"files": modes})

    def _lfs_batch(self, repo: str) -> None:
        objects = []
        for item in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}
            verify = {
                "href": f"{self.server.url}/lfs/verify",
                "header": {"Authorization": f"Bearer {self.server.token}"},
            }
            objects.append({**item, "authenticated": True, "actions": {"upload": upload, "verify": verify}})
        self.json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400)
        self.server.objects[oid] = self.body
        self.answer(200)

    def _commit(self, repo: str, revision: str) -> None:
        changes = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.server.objects[value["oid"]]
        answer = {"commitMessage": "", "success": True}
        if "create_pr=1" in self.path:
            revision = "refs/pr/1"
            self.server.repos[repo]["branches"][revision] = list(self.server.repos[repo]["branches"]["main"])
            answer["pullRequestUrl"] = f"{self.server.url}/{repo}/discussions/1"
        commit = self.server.commit(repo, revision, changes)
        self.json({**answer, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})
