"""The Hub's error answers: a status, a code that clients act on, and a sentence."""

from __future__ import annotations


class HubError(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def headers(self) -> dict[str, str]:
        code = {"X-Error-Code": self.code} if self.code else {}
        return {**code, "X-Error-Message": self.message}

    @classmethod
    def repository_not_found(cls, *, anonymous: bool) -> HubError:
        """The Hub tells nobody whether a repository is missing or private; without a token it asks for one."""
        if anonymous:
            return cls(401, "RepoNotFound", "Invalid username or password.")
        return cls(404, "RepoNotFound", "Repository not found")

    @classmethod
    def gated(cls, repo_id: str, *, anonymous: bool) -> HubError:
        if anonymous:
            message = f"Access to model {repo_id} is restricted. You must have access to it and be authenticated to access it."
            return cls(401, "GatedRepo", message)
        return cls(403, "GatedRepo", f"Access to model {repo_id} is restricted and you are not in the authorized list.")

    @classmethod
    def disabled(cls) -> HubError:
        """What the Hub's staff has taken away; the client knows it by this sentence."""
        return cls(403, None, "Access to this resource is disabled.")

    @classmethod
    def bad_request(cls, message: str) -> HubError:
        return cls(400, None, message)

    @classmethod
    def bad_token(cls) -> HubError:
        return cls(401, None, "Invalid credentials in Authorization header")

    @classmethod
    def revision_not_found(cls, revision: str) -> HubError:
        return cls(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    @classmethod
    def entry_not_found(cls) -> HubError:
        return cls(404, "EntryNotFound", "Entry not found")
