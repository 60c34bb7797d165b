"""The session token: what FHIR calls carry. Its text is shown nowhere."""

from dataclasses import dataclass

from .policy import Instant


@dataclass(frozen=True, slots=True, repr=False)
class SessionToken:
    """A bearer token for FHIR calls. `repr` and `str` do not show it; `reveal()` does.

    `subject_id` is the id to find the FHIR Patient by. `expires_at` already allows for early expiry.
    """

    jwt: str
    subject_id: str
    expires_at: Instant

    def reveal(self) -> str:
        """The token itself, for the Authorization header of a FHIR call and nothing else."""
        return self.jwt

    def headers(self) -> dict[str, str]:
        """The request header that carries the token."""
        return {"Authorization": f"Bearer {self.jwt}"}

    def __repr__(self) -> str:
        return f"SessionToken(<withheld>, expires_at={self.expires_at})"
