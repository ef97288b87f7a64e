"""Repositories as the Hub's JSON shows them."""

from __future__ import annotations

from typing import Any

from tests.fakehub.content import Content
from tests.fakehub.repository import Commit, Repository, in_lfs, oid

_DATE = "2026-01-01T00:00:00.000Z"
_LFS_POINTER_BYTES = 135
_CONFIG_KEYS = ("architectures", "model_type", "quantization_config")
_LISTED_KEYS = ("id", "modelId", "private", "downloads", "likes", "tags", "createdAt", "library_name", "pipeline_tag")


def model_info(repository: Repository, commit: Commit | None, *, blobs: bool = False) -> dict[str, Any]:
    """`GET /api/models/{id}`. A repository without a commit has no sha and no files."""
    files = commit.files if commit else {}
    card = commit.card if commit else {}
    return {
        "_id": "0" * 24,
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": commit.sha if commit else None,
        "lastModified": _DATE,
        "createdAt": _DATE,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": repository.downloads,
        "likes": 0,
        "library_name": card.get("library_name", "transformers"),
        "pipeline_tag": card.get("pipeline_tag", "text-generation"),
        "tags": tags(commit),
        "cardData": card,
        "config": {key: commit.config[key] for key in _CONFIG_KEYS if key in commit.config} if commit else {},
        "siblings": [_sibling(path, content, blobs=blobs) for path, content in sorted(files.items())],
        "usedStorage": sum(content.size for content in files.values()),
    }


def with_security_status(info: dict[str, Any]) -> dict[str, Any]:
    return {**info, "securityRepoStatus": {"scansDone": True, "filesWithIssues": []}}


def expanded(info: dict[str, Any], properties: list[str]) -> dict[str, Any]:
    """Only the properties that `expand` named, as the Hub does it."""
    return {key: info[key] for key in ("_id", "id", "modelId", *properties) if key in info}


def listed(info: dict[str, Any]) -> dict[str, Any]:
    """An entry of `GET /api/models` when nothing further was asked for."""
    return {key: info[key] for key in _LISTED_KEYS}


def tags(commit: Commit | None) -> list[str]:
    """The tags that the Hub derives from the card and the config, as far as a search for checkpoints uses them."""
    if commit is None:
        return []
    card, method = commit.card, commit.config.get("quantization_config", {}).get("quant_method")
    found = ["safetensors"] if any(path.endswith(".safetensors") for path in commit.files) else []
    found += [method] if method else []
    if base := card.get("base_model"):
        relation = card.get("base_model_relation", "finetune")
        found += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    return found + ([f"license:{card['license']}"] if "license" in card else [])


def refs(repository: Repository) -> dict[str, Any]:
    """`GET /api/models/{id}/refs`."""

    def described(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return {
        "branches": described(repository.branches, "heads"),
        "tags": described(repository.tags, "tags"),
        "converts": [],
        "pullRequests": [],
    }


def tree(commit: Commit, folder: str = "", *, recursive: bool = False, expand: bool = False) -> list[dict[str, Any]]:
    """`GET /api/models/{id}/tree/{revision}/{folder}`: folders and files in the order of their paths."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(commit.files.items()):
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = prefix + "/".join(parts[:depth])
                entries.setdefault(parent, {"type": "directory", "oid": commit.sha, "size": 0, "path": parent})
            if recursive or len(parts) == 1:
                entries[path] = tree_file(path, content, commit, expand=expand)
    return list(entries.values())


def tree_file(path: str, content: Content, commit: Commit, *, expand: bool = False) -> dict[str, Any]:
    """A file in a tree or of paths-info."""
    entry: dict[str, Any] = {"type": "file", "oid": _blob_id(path, content), "size": content.size, "path": path}
    if in_lfs(path):
        entry["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": _LFS_POINTER_BYTES}
    if expand:
        entry["lastCommit"] = {"id": commit.sha, "title": "Upload", "date": _DATE}
        entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return entry


def _sibling(path: str, content: Content, *, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path}
    if blobs:
        sibling |= {"size": content.size, "blobId": _blob_id(path, content)}
    if blobs and in_lfs(path):
        sibling["lfs"] = {"sha256": content.sha256, "size": content.size, "pointerSize": _LFS_POINTER_BYTES}
    return sibling


def _blob_id(path: str, content: Content) -> str:
    """40 hex digits for every file; the Hub has the pointer file's there for one in LFS."""
    return oid(path, content)[:40]
