"""The upstream session: the login that gives a JWT, the secrets it needs, and how a cached JWT is sealed at rest."""
