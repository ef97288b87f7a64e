"""Which repositories there are, and who may read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tests.fakehub.errors import HubError
from tests.fakehub.repository import Commit, Repository

EVERYTHING = "*"


class Catalogue:
    """Repositories by id. `tokens` maps a token to the ids that it opens, or to `EVERYTHING`."""

    def __init__(
        self,
        repositories: Iterable[Repository],
        tokens: Mapping[str, Collection[str]],
        renamed: Mapping[str, str],
    ) -> None:
        self.repositories = {repository.id: repository for repository in repositories}
        self.tokens = dict(tokens)
        self.renamed = dict(renamed)

    def visible(self, repo_id: str, token: str | None) -> Repository:
        """The repository, if its existence may be known to this token. Gated ones may be known to everyone."""
        self._check(token)
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and not self._opens(token, repo_id)):
            raise HubError.repository_not_found(anonymous=token is None)
        if repository.disabled:
            raise HubError.disabled()
        return repository

    def listed(self, token: str | None) -> list[Repository]:
        """The repositories that a search with this token may find."""
        self._check(token)
        return [one for one in self.repositories.values() if not one.private or self._opens(token, one.id)]

    def readable(self, repo_id: str, token: str | None) -> Repository:
        """The repository, if its files may be read with this token."""
        repository = self.visible(repo_id, token)
        if repository.gated and not self._opens(token, repo_id):
            raise HubError.gated(repo_id, anonymous=token is None)
        return repository

    def _check(self, token: str | None) -> None:
        if token is not None and token not in self.tokens:
            raise HubError.bad_token()

    def _opens(self, token: str | None, repo_id: str) -> bool:
        opened = self.tokens.get(token or "", ())
        return EVERYTHING in opened or repo_id in opened


def commit_of(repository: Repository, revision: str) -> Commit:
    """The commit that a revision means. Raises the Hub's error when there is none."""
    commit = repository.find(revision)
    if commit is None:
        raise HubError.revision_not_found(revision)
    return commit
