"""A portal on wsgiref that embeds the very code of docs/write-your-own-host.md: see `support.hosts`."""

import json
import re
import secrets
import sys
from http.cookies import SimpleCookie
from pathlib import Path
from socketserver import ThreadingMixIn
from types import ModuleType
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import shift_path_info

from support import portal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-your-own-host.md"
#: What a cookie stands for.
SESSIONS = {}


def session_of(environ):
    """The session that the browser's cookie names."""
    cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get("session")
    return SESSIONS.get(cookie.value, {}) if cookie else {}


def user_of(environ):
    """Who is logged in."""
    return session_of(environ).get("user")


def patient_of(user):
    """The patient that a user is."""
    is_logged_in = any(session.get("user") == user for session in SESSIONS.values())
    return portal.patient_of(user, is_logged_in=is_logged_in)


portal.prepare()
sys.modules["portal"] = ModuleType("portal")
vars(sys.modules["portal"]).update(SETTINGS=portal.block(patient_of), user_of=user_of)
OWN = {}
exec(compile(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1], str(PAGE), "exec"), OWN)


def log_in(environ, start_response):
    """Log in whoever says so."""
    form = parse_qs(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode())
    user, name = form["user"][0], secrets.token_hex()
    SESSIONS[name] = {"user": user}
    OWN["hooks"].logged_in(lambda: OWN["embedding"].patient_of(user))
    start_response("204 No Content", [("Set-Cookie", f"session={name}; HttpOnly; SameSite=Lax; Path=/")])
    return []


def log_out(environ, start_response):
    """Log out."""
    user = user_of(environ)
    OWN["hooks"].logged_out(lambda: OWN["embedding"].patient_of(user))
    session_of(environ).clear()
    start_response("204 No Content", [])
    return []


def csrf(environ, start_response):
    """Nothing is asked for: a cookie that is SameSite=Lax does not come with another site's POST."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"headers": {}}).encode()]


def application(environ, start_response):
    """The whole portal."""
    views = {"phr": OWN["app"], "login": log_in, "logout": log_out, "csrf": csrf}
    return views[shift_path_info(environ)](environ, start_response)


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", 0), WSGIRequestHandler)
server.set_app(application)
portal.listening(server.server_port)
server.serve_forever()
