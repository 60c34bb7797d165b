"""Opening a store by its URL: what the URL may be, and what is said when it is wrong."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from phr_refresh.adapters.stores import open_async_store, open_store
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.stores.redis_stores import AsyncWiredStore, DirectStore, WiredStore
from phr_refresh.adapters.stores.redis_urls import RedisTarget
from phr_refresh.adapters.stores.sqlite import SqliteStore
from phr_refresh.adapters.stores.threaded import ThreadedStore
from phr_refresh.adapters.stores.urls import sqlite_path
from phr_refresh.statemachine.errors import ConfigurationError

KNOWN = (
    "use memory://, sqlite:///<file>, redis://<host>, rediss://<host>, redis+unix:///<socket>, redis+cluster://<hosts> "
    "or redis+sentinel://<hosts>/<service>"
)
PORT = "its port is no number from 1 to 65535; correct it; if the password has special characters, percent-encode them"
OPTION = "it has an option that is not known"
SECRET = "hunter2"

WRONG = {
    "": f"it is empty or no text; {KNOWN}",
    "  ": f"it is empty or no text; {KNOWN}",
    "store.db": f"it has no scheme; {KNOWN}",
    f"{SECRET}@host:6379": f"it has no scheme; {KNOWN}",
    f"postgres://user:{SECRET}@host/db": f"its scheme postgres is not known; {KNOWN}",
    "unix:///run/redis.sock": f"its scheme unix is not known; {KNOWN}",
    "memory://shared": "memory:// takes nothing after it; each memory store is its own; for a shared one use a file",
    "sqlite://": "it names no file; write sqlite:///relative/file.db",
    "sqlite:///": "it names no file; write sqlite:///relative/file.db",
    "sqlite://store.db": "it names no file; write sqlite:///relative/file.db",
    "sqlite:///:memory:": "SQLite in memory is not shared between threads; use memory://",
    "sqlite:///store.db?mode=ro": "an SQLite URL takes no options",
    "redis://host:port/0": PORT,
    "redis://host:0": PORT,
    "redis://host:65536": PORT,
    f"redis://:{SECRET}/x@host": PORT,
    f"redis://:1#{SECRET}@host": 'it has a "#"; write it as %23',
    f"redis://:{SECRET}[@host": "it is malformed; percent-encode special characters",
    f"redis://:1?{SECRET}@host:6379": OPTION,
    "redis://host/zero": "its path is no database number; write redis://<host>:<port>/<number>",
    "redis://host?colour=red": OPTION,
    "redis://host?decode_responses=1": OPTION,
    "redis://host?retry_on_timeout=1": OPTION,
    "redis://host?ssl_ca_certs=ca.pem": OPTION,
    "redis://host?socket_timeout=0": "the value of its option socket_timeout is not valid; correct or remove it",
    "redis://host?socket_timeout=-1": "the value of its option socket_timeout is not valid; correct or remove it",
    "redis://host?socket_timeout=nan": "the value of its option socket_timeout is not valid; correct or remove it",
    "redis://host?db=x": "the value of its option db is not valid; correct or remove it",
    "redis://host?prefix=a%7Bb%7D": "it is not 1 to 32 letters, digits, '.', '_', ':' or '-'",
    "redis://a,b": "it names several hosts; use redis+cluster:// or redis+sentinel://",
    "redis+cluster://a,b:port": PORT,
    "redis+cluster://a:1,b:65536": PORT,
    f"redis+cluster://me:{SECRET},x@a/0": "a cluster has no databases; remove the path after the hosts",
    "redis+cluster://a?db=1": OPTION,
    "redis+cluster://a?ssl_ca_certs=ca.pem": OPTION,
    "redis+cluster://a?sentinel_password=x": OPTION,
    "redis+sentinel://a,b": "it names no service; write redis+sentinel://<host>,<host>/<service>",
    "redis+sentinel://a/login/zero": "it names no service; write redis+sentinel://<host>,<host>/<service>",
    "redis+sentinel://a/lo gin": "it names no service; write redis+sentinel://<host>,<host>/<service>",
    "redis+sentinel://a/login?sentinel_password=": "the value of its option sentinel_password is not valid",
    "redis+unix://": "it names no socket; write redis+unix:///path/to/redis.sock, with three slashes",
    "redis+unix://run/redis.sock": "it names no socket; write redis+unix:///path/to/redis.sock, with three slashes",
}


@pytest.mark.parametrize("opener", [open_store, open_async_store])
@pytest.mark.parametrize("url", WRONG, ids=repr)
def test_a_wrong_url_gives_one_clear_sentence(url, opener):
    """What is wrong and what to do are said, the URL and its password are not."""
    with pytest.raises(ConfigurationError) as raised:
        opener(url)

    said = str(raised.value)
    assert WRONG[url] in said
    assert SECRET not in said
    assert raised.value.__cause__ is None


def test_only_text_is_a_url():
    """None, as an unset variable gives it, is reported like an empty URL."""
    with pytest.raises(ConfigurationError, match="it is empty or no text"):
        open_store(None)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///store.db", "store.db"),
        ("sqlite:///folder/store.db", "folder/store.db"),
        ("sqlite:////var/lib/store.db", "/var/lib/store.db"),
        ("sqlite:///50%25%3F.db", "50%?.db"),
    ],
)
def test_an_sqlite_url_names_a_file(url, path):
    """Three slashes and a relative path, four and an absolute one; escapes are decoded."""
    assert path == sqlite_path(url)


@pytest.mark.parametrize(
    ("url", "name", "client_url", "prefix"),
    [
        ("redis://", "redis://localhost:6379", "redis://localhost:6379", "phr"),
        ("redis://cache.example:7000/2", "redis://cache.example:7000", "redis://cache.example:7000/2", "phr"),
        (f"redis://me:{SECRET}@[::1]", "redis://[::1]:6379", f"redis://me:{SECRET}@[::1]:6379", "phr"),
        ("REDISS://h?prefix=x:y", "rediss://h:6379", "rediss://h:6379", "x:y"),
        ("rediss://h?ssl_ca_certs=ca.pem", "rediss://h:6379", "rediss://h:6379?ssl_ca_certs=ca.pem", "phr"),
        ("redis+unix:///run/r.sock?db=3", "redis+unix:///run/r.sock", "unix:///run/r.sock?db=3", "phr"),
        (f"redis+unix://me:{SECRET}@/r.sock", "redis+unix:///r.sock", f"unix://me:{SECRET}@/r.sock", "phr"),
    ],
)
def test_a_redis_url_names_a_server(url, name, client_url, prefix):
    """The name in errors has no credentials, nor has the repr; the prefix is ours and not for the client."""
    target = RedisTarget.parse(url)

    assert ("server", name, prefix) == (target.kind, target.name, target.prefix)
    assert client_url == target.client_url(target.places[0])
    assert SECRET not in repr(target)


@pytest.mark.parametrize(
    ("url", "kind", "name", "client_urls"),
    [
        ("redis+cluster://a", "cluster", "redis+cluster://a:6379", ["redis://a:6379"]),
        (
            f"redis+cluster://me:{SECRET}@a:7000,[::1]:7001,b",
            "cluster",
            "redis+cluster://a:7000,[::1]:7001,b:6379",
            [f"redis://me:{SECRET}@{place}" for place in ("a:7000", "[::1]:7001", "b:6379")],
        ),
        (
            "rediss+cluster://a,b/?ssl_ca_certs=ca.pem&socket_timeout=0.5",
            "cluster",
            "rediss+cluster://a:6379,b:6379",
            [f"rediss://{host}:6379/?ssl_ca_certs=ca.pem&socket_timeout=0.5" for host in "ab"],
        ),
        (
            "redis+sentinel://s1,s2:1/login",
            "sentinel",
            "redis+sentinel://s1:26379,s2:1/login",
            ["redis://s1:26379"] * 0,
        ),
        (
            f"rediss+sentinel://me:{SECRET}@s1/login/2",
            "sentinel",
            "rediss+sentinel://s1:26379/login",
            [f"rediss://me:{SECRET}@s1:26379/2"],
        ),
    ],
)
def test_a_url_may_name_several_hosts(url, kind, name, client_urls):
    """Each host of a cluster, or each sentinel, has its port; all share the credentials, which are not shown."""
    target = RedisTarget.parse(url)

    assert (kind, name) == (target.kind, target.name)
    assert client_urls == [target.client_url(place) for place in target.places][: len(client_urls)]
    assert SECRET not in repr(target)


def test_sentinels_have_credentials_of_their_own():
    """A sentinel is told neither the servers' user nor the database, and the servers nothing of the sentinels' user."""
    target = RedisTarget.parse(
        f"redis+sentinel://me:{SECRET}@s1/login?sentinel_username=s&sentinel_password=p%2Fw&db=3&socket_timeout=2"
    )

    assert "redis://s:p%2Fw@s1:26379?socket_timeout=2" == target.sentinel_url("s1:26379")
    assert f"redis://me:{SECRET}@a:1?db=3&socket_timeout=2" == target.client_url("a:1")
    assert "p/w" not in repr(target)
    assert "p%2Fw" not in repr(target)


@pytest.mark.parametrize(
    ("url", "kind", "async_kind"),
    [
        ("memory://", MemoryStore, ThreadedStore),
        ("sqlite:///store.db", SqliteStore, ThreadedStore),
        ("redis://nowhere.invalid:1", DirectStore, AsyncWiredStore),
        ("redis://nowhere.invalid:1?protocol=3", WiredStore, AsyncWiredStore),
        ("rediss://nowhere.invalid?ssl_cert_reqs=none", DirectStore, AsyncWiredStore),
        ("redis+unix:///nowhere.sock", DirectStore, AsyncWiredStore),
        ("redis+cluster://nowhere.invalid,elsewhere.invalid:1", WiredStore, AsyncWiredStore),
        ("rediss+cluster://nowhere.invalid?ssl_cert_reqs=none", WiredStore, AsyncWiredStore),
        ("rediss+sentinel://nowhere.invalid/login?ssl_cert_reqs=none", WiredStore, AsyncWiredStore),
    ],
)
def test_opening_connects_to_nothing(url, kind, async_kind, runner, tmp_path, monkeypatch):
    """Each scheme gives its store, whether or not anything is there to be reached."""
    monkeypatch.chdir(tmp_path)

    async def close(store):
        await store.close()

    with closing(open_store(url)) as store:
        assert kind is type(store)
    async_store = open_async_store(url)
    assert async_kind is type(async_store)
    runner.run(close(async_store))
    assert [] == list(tmp_path.iterdir())


def test_the_directory_of_the_file_must_exist(tmp_path):
    """A mistyped directory is reported when the service starts, not at the first login."""
    with pytest.raises(ConfigurationError) as raised:
        open_store(f"sqlite:///{tmp_path}/missing/store.db")

    assert str(raised.value) == "the SQLite store: the directory of its file does not exist; create it."


def test_a_directory_is_no_store(tmp_path):
    """The path must name a file."""
    with pytest.raises(ConfigurationError) as raised:
        open_store(f"sqlite:///{tmp_path}")

    assert str(raised.value) == "the SQLite store: its path is a directory; give the path of a file."


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import phr_refresh.adapters.stores", {"redis", "hiredis", "sqlite3"}),
        (
            "from phr_refresh.adapters.stores import open_store; open_store('memory://')",
            {"redis", "hiredis", "sqlite3"},
        ),
        ("from phr_refresh.adapters.stores import open_store; open_store('sqlite:///x.db')", {"redis", "hiredis"}),
        ("from phr_refresh.adapters.stores import open_store; open_store('redis://')", {"sqlite3"}),
    ],
)
def test_only_what_a_url_asks_for_is_imported(program, absent, tmp_path):
    """Importing the stores imports no client; opening one imports its own."""
    import phr_refresh

    env = os.environ | {"PYTHONPATH": str(Path(phr_refresh.__file__).parent.parent)}
    check = f"{program}\nimport sys; print(sorted({absent!r} & set(sys.modules)))"

    said = subprocess.run([sys.executable, "-c", check], env=env, cwd=tmp_path, capture_output=True, text=True)

    assert ("[]\n", "") == (said.stdout, said.stderr)
