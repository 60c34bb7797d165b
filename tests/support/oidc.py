"""A small OpenID Connect provider, on real HTTP: discovery, authorization code with PKCE, token, and keys."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "portal", "of-no-value"


class OpenIdProvider:
    """Logs in whoever `user` names, without asking anything. `url` is its issuer; `logins` counts the tokens given."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.url = ""
        self.logins = 0
        self._key = RSAKey.generate_key(2048, {"kid": "key-1"}, private=True)
        self._codes: dict[str, dict[str, str]] = {}

    def discovery(self) -> dict[str, object]:
        """What the provider says of itself (OpenID Connect Discovery 1.0, section 3)."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def keys(self) -> dict[str, object]:
        """The public key."""
        return {"keys": [self._key.as_dict(private=False)]}

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to, with a code."""
        assert ("code", CLIENT_ID, "S256") == (
            asked["response_type"],
            asked["client_id"],
            asked["code_challenge_method"],
        )
        code = secrets.token_urlsafe()
        self._codes[code] = asked | {"user": self.user}
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, given: dict[str, str], authorization: str) -> dict[str, object]:
        """The tokens for a code, once."""
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        assert f"Basic {expected}" == authorization
        asked = self._codes.pop(given["code"])
        digest = hashlib.sha256(given["code_verifier"].encode()).digest()
        assert asked["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        assert asked["redirect_uri"] == given["redirect_uri"]
        now = int(time.time())
        claims = {"iss": self.url, "sub": asked["user"], "aud": CLIENT_ID, "nonce": asked["nonce"]}
        id_token = jwt.encode({"alg": "RS256", "kid": "key-1"}, claims | {"iat": now, "exp": now + 300}, self._key)
        self.logins += 1
        return {"access_token": "of-no-use", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}


def _handler(provider: OpenIdProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                self._redirect(provider.authorize(_fields(parts.query)))
            else:
                found = {"/.well-known/openid-configuration": provider.discovery, "/jwks": provider.keys}
                self._say(found[parts.path]())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._say(provider.token(_fields(body), self.headers["Authorization"]))

        def _redirect(self, target: str) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _say(self, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
            """Say nothing."""

    return Handler


def _fields(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}


@contextmanager
def openid_provider(user: str) -> Iterator[OpenIdProvider]:
    """A provider that runs."""
    provider = OpenIdProvider(user)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(provider)) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield provider
        server.shutdown()
        thread.join()
