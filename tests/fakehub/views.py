"""Repositories as the Hub's JSON shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from huggingface_hub.hf_api import ExpandModelProperty_T

from tests.fakehub.content import Content
from tests.fakehub.errors import HubError
from tests.fakehub.relations import base_models, parameters, relation, tags
from tests.fakehub.repository import Commit, Repository, in_lfs, oid

_PROPERTIES = frozenset(get_args(ExpandModelProperty_T))  # the client's list is the Hub's
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
        "lastModified": repository.last_modified,
        "createdAt": repository.created_at,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "downloads": repository.downloads,
        "likes": 0,
        "library_name": card.get("library_name", "transformers"),
        "pipeline_tag": card.get("pipeline_tag", "text-generation"),
        "tags": tags(repository, commit),
        "cardData": card,
        "config": _config(commit) if commit else {},
        "siblings": [_sibling(path, content, blobs=blobs) for path, content in sorted(files.items())],
        "usedStorage": sum(content.size for content in files.values()),
    } | _descent(repository, commit)


def _config(commit: Commit) -> dict[str, Any]:
    """Some fields of config.json, and the template of tokenizer_config.json."""
    template = commit.tokenizer_config.get("chat_template")
    tokenizer = {"tokenizer_config": {"chat_template": template}} if template else {}
    return {key: commit.config[key] for key in _CONFIG_KEYS if key in commit.config} | tokenizer


def _descent(repository: Repository, commit: Commit | None) -> dict[str, Any]:
    if commit is None or not repository.relation_known or not base_models(commit):
        return {}
    models = [{"_id": "0" * 24, "id": base} for base in base_models(commit)]
    return {"baseModels": {"relation": relation(commit), "models": models}}


def security(repository: Repository) -> dict[str, Any]:
    """What `securityStatus` adds. Nothing is said of a repository that was not scanned."""
    if not repository.scanned:
        return {"securityRepoStatus": {"scansDone": False, "filesWithIssues": []}}
    issues = [{"path": path, "level": "unsafe"} for path in repository.unsafe_files]
    return {"securityRepoStatus": {"scansDone": True, "filesWithIssues": issues}}


def expanded(repository: Repository, commit: Commit | None, properties: list[str]) -> dict[str, Any]:
    """Only the properties that `expand` names. The Hub refuses those that it does not know."""
    if unknown := set(properties) - _PROPERTIES:
        raise HubError.bad_request(f'"expand" must be one of {", ".join(sorted(_PROPERTIES))}, not {sorted(unknown)}')
    info = model_info(repository, commit)
    if commit is not None and "safetensors" in properties:
        info["safetensors"] = parameters(commit)
    return {key: info[key] for key in ("_id", "id", "modelId", *properties) if info.get(key) is not None}


def listed(repository: Repository, commit: Commit | None, added: Iterable[str]) -> dict[str, Any]:
    """An entry of `GET /api/models` without `expand`."""
    info = model_info(repository, commit)
    return {key: info[key] for key in (*_LISTED_KEYS, *added)}


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


def tree(
    repository: Repository, commit: Commit, folder: str = "", *, recursive: bool = False, expand: bool = False
) -> list[dict[str, Any]]:
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
                entries[path] = _tree_file(path, content)
                if expand:
                    entries[path] |= _expanded_file(repository, commit, path)
    return list(entries.values())


def _tree_file(path: str, content: Content) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": _blob_id(path, content), "size": content.size, "path": path}
    if in_lfs(path):
        entry["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": _LFS_POINTER_BYTES}
    return entry


def without_lfs(entry: dict[str, Any]) -> dict[str, Any]:
    """A file as a mirror lists it."""
    return {key: value for key, value in entry.items() if key != "lfs"}


def _expanded_file(repository: Repository, commit: Commit, path: str) -> dict[str, Any]:
    last = {"id": commit.sha, "title": commit.message or "Upload", "date": repository.last_modified}
    scanned = "unsafe" if path in repository.unsafe_files else "safe"
    status = scanned if repository.scanned else "queued"
    return {"lastCommit": last, "securityFileStatus": {"status": status, "avScan": None, "pickleImportScan": None}}


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
