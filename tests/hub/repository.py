"""A repository of the fake hub: its files, its commit, and how it answers."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

LARGE = (".safetensors", ".bin", ".parquet", ".model", ".msgpack", ".h5", ".png", ".jpg")  # kept by LFS
BRANCH = "main"


@dataclass(kw_only=True)
class Repository:
    """Files by their path. The fields from `gated` on can be changed while the hub is running."""

    name: str  # owner/name
    kind: str = "models"  # or "datasets"
    files: dict[str, bytes] = field(default_factory=dict)
    card: dict = field(default_factory=dict)  # `cardData` of the API, such as the license
    private: bool = False
    gated: bool = False  # its license has to be accepted, which the tokens in `granted` did
    granted: set[str] = field(default_factory=set)
    missing: bool = False  # the hub answers as if it did not exist
    down: int | None = None  # a status such as 503 for every request
    hangs_up: bool = False  # closes every connection without an answer
    cut: int | None = None  # bytes after which the body of a file ends early
    cuts: int = 1_000_000  # how many bodies end early

    @classmethod
    def of_folder(cls, folder: Path, name: str, **options: object) -> "Repository":
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        return cls(name=name, files=files, **options)

    def copy(self) -> "Repository":
        return replace(self, files=dict(self.files), granted=set(self.granted))

    @property
    def commit(self) -> str:
        """Return the commit's id, which changes with the files."""
        listed = "".join(f"{path} {blob_id(content)}\n" for path, content in sorted(self.files.items()))
        return hashlib.sha1(f"{self.name}\n{listed}".encode()).hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in (BRANCH, self.commit)

    def info(self) -> dict:
        """Return what `/api/models/owner/name` answers."""
        date = "2025-01-01T00:00:00.000Z"
        return {
            "_id": "0" * 24, "id": self.name, "modelId": self.name, "author": self.name.split("/")[0],
            "sha": self.commit, "lastModified": date, "createdAt": date, "private": self.private,
            "gated": "auto" if self.gated else False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": [], "cardData": self.card, "spaces": [],
            "usedStorage": sum(map(len, self.files.values())),
            "siblings": [{"rfilename": path} for path in sorted(self.files)],
        }  # fmt: skip

    def tree(self, folder: str, *, recursive: bool) -> list[dict] | None:
        """Return the entries below a folder, or None if there is no such folder."""
        inside = f"{folder}/" if folder else ""
        found = [path for path in sorted(self.files) if path.startswith(inside)]
        below = [path.removeprefix(inside) for path in found]
        parents = {str(parent) for path in below for parent in PurePosixPath(path).parents} - {"."}
        folders = [path for path in sorted(parents) if recursive or "/" not in path]
        files = [path for path in below if recursive or "/" not in path]
        if not found:
            return None
        return [self.entry(inside + path) for path in (*folders, *files)]

    def entry(self, path: str) -> dict:
        """Return what the API says about one file or folder."""
        if path not in self.files:
            return {
                "type": "directory",
                "oid": hashlib.sha1(path.encode()).hexdigest(),
                "size": 0,
                "path": path,
            }
        content = self.files[path]
        told = {"type": "file", "oid": blob_id(content), "size": len(content), "path": path}
        if is_large(path):
            told["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return told

    def holds(self, path: str) -> bool:
        return path in self.files or any(known.startswith(f"{path}/") for known in self.files)


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Return the id that git gives to a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
