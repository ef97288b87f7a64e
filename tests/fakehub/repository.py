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
_READ_BYTES = 10_000_000
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Commit:
    """Files by path. The same files with the same message always have the same sha."""

    files: dict[str, Content]
    message: str = ""

    @cached_property
    def sha(self) -> str:
        """40 hex digits, as git's commits have."""
        lines = (f"{path} {content.size} {oid(path, content)}" for path, content in sorted(self.files.items()))
        return hashlib.sha1("\n".join([*lines, *filter(None, [self.message])]).encode()).hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """The front matter of README.md; empty without, and where it cannot be read."""
        match = _FRONT_MATTER.match(self._text("README.md"))
        try:
            card = yaml.safe_load(match.group(1)) if match else {}
        except (yaml.YAMLError, RecursionError):
            return {}
        return card if isinstance(card, dict) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`; empty when there is none or it is no JSON object."""
        return self._object("config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """`tokenizer_config.json`, likewise."""
        return self._object("tokenizer_config.json")

    def _object(self, path: str) -> dict[str, Any]:
        try:
            document = json.loads(self._text(path))
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def _text(self, path: str) -> str:
        """The Hub looks into small files only; empty without the file."""
        content = self.files.get(path)
        return content.read(0, _READ_BYTES).decode(errors="replace") if content else ""


@dataclass
class Repository:
    """A model on the hub. Everything but the id may be changed while it is served.

    `branches` and `tags` map a name to a commit's sha; dates are as the Hub writes them.
    """

    id: str
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    disabled: bool = False
    """Taken away by the Hub's staff: 403 for everybody."""
    downloads: int = 0
    created_at: str = "2026-01-01T00:00:00.000Z"
    last_modified: str = "2026-01-01T00:00:00.000Z"
    relation_known: bool = True
    """Whether the Hub has derived the base_model tags from the card; it does so late, and at times never."""
    scanned: bool = True
    """Whether the Hub's security scans are done."""
    unsafe_files: tuple[str, ...] = ()
    """What those scans found."""
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_folder(
        cls, repo_id: str, folder: Path, card: Mapping[str, Any] | None = None, **options: Any
    ) -> Repository:
        """A repository whose branch main has every file of a folder, and a README.md with this card if one is given.

        `options` as for the constructor.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise ValueError(f"{folder} holds no file to serve as {repo_id}")
        repository = cls(repo_id, **options)
        files: dict[str, Content] = {path.relative_to(folder).as_posix(): FileContent(path) for path in paths}
        repository.commit(files | ({"README.md": readme(repo_id, card)} if card else {}))
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

    def squash(self, branch: str = "main") -> str:
        """Forget the branch's history: its files under a new sha, every commit that no name leads to is gone."""
        squashed = Commit(self.commits[self.branches[branch]].files, f"Super-squash branch '{branch}'")
        self.branches[branch] = squashed.sha
        named = {*self.branches.values(), *self.tags.values()}
        self.commits = {sha: commit for sha, commit in self.commits.items() if sha in named} | {squashed.sha: squashed}
        return squashed.sha

    def forge(self, sha: str, path: str, data: Content | bytes) -> None:
        """Other bytes in a file of a commit whose sha stays: what no honest hub does."""
        commit = self.commits[sha]
        kept = Commit({**commit.files, path: BytesContent(data) if isinstance(data, bytes) else data})
        kept.__dict__["sha"] = sha  # where cached_property keeps it
        self.commits[sha] = kept

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


def quantized_card(base: str) -> dict[str, str]:
    """The card of a checkpoint that was quantised from a base."""
    return {"base_model": base, "base_model_relation": "quantized"}


def readme(repo_id: str, card: Mapping[str, Any]) -> BytesContent:
    """A model card: front matter and a title."""
    return BytesContent(f"---\n{yaml.safe_dump(dict(card))}---\n# {repo_id}\n".encode())


def oid(path: str, content: Content) -> str:
    """What names the file's content: the sha256 in LFS, else git's blob name."""
    return content.sha256 if in_lfs(path) else content.git_oid
