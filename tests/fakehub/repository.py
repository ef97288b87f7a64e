"""A model repository: commits that never change, and branches and tags that may be moved to another one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.fakehub.content import BytesContent, Content, FileContent

_LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Commit:
    """Files by path. The same files always have the same sha."""

    files: Mapping[str, Content]

    @cached_property
    def sha(self) -> str:
        """40 hex digits, as git's commits have."""
        lines = (f"{path} {content.size} {oid(path, content)}" for path, content in sorted(self.files.items()))
        return hashlib.sha1("\n".join(lines).encode()).hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """The front matter of README.md; empty without."""
        if "README.md" not in self.files:
            return {}
        match = _FRONT_MATTER.match(_text(self.files["README.md"]))
        return yaml.safe_load(match.group(1)) if match else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`; empty when there is none or it is no JSON object."""
        try:
            config = json.loads(_text(self.files["config.json"]))
        except (KeyError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}


@dataclass
class Repository:
    """A model on the hub. `branches` and `tags` map a name to a commit's sha and may be changed while it is served."""

    id: str
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    downloads: int = 0
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, repo_id: str, folder: Path, **options: Any) -> Repository:
        """A repository whose branch main has every file of a folder. `options` as for the constructor."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise ValueError(f"{folder} holds no file to serve as {repo_id}")
        repository = cls(repo_id, **options)
        repository.commit({path.relative_to(folder).as_posix(): FileContent(path) for path in paths})
        return repository

    @classmethod
    def from_files(cls, repo_id: str, files: Mapping[str, Content | bytes], **options: Any) -> Repository:
        """A repository whose branch main has these files."""
        repository = cls(repo_id, **options)
        repository.commit(files)
        return repository

    def commit(self, files: Mapping[str, Content | bytes], branch: str = "main") -> str:
        """Add a commit with exactly these files, move the branch to it, and return its sha."""
        contents = {path: BytesContent(data) if isinstance(data, bytes) else data for path, data in files.items()}
        commit = Commit(contents)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit.sha

    def find(self, revision: str) -> Commit | None:
        """The commit that a sha, a branch or a tag means now."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def blob(self, name: str) -> Content | None:
        """A file in LFS by its sha256, in any commit."""
        files = (content for commit in self.commits.values() for path, content in commit.files.items() if in_lfs(path))
        return next((content for content in files if content.sha256 == name), None)


def in_lfs(path: str) -> bool:
    """Whether the hub keeps the file in large file storage, that is, answers with a redirect to its CDN."""
    return path.endswith(_LFS_SUFFIXES)


def oid(path: str, content: Content) -> str:
    """What names the file's content: the sha256 in LFS, else git's blob name."""
    return content.sha256 if in_lfs(path) else content.git_oid


def _text(content: Content) -> str:
    return content.read(0, content.size).decode(errors="replace")
