"""What docs/redis.md says is so."""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from phr_refresh import ConfigurationError
from phr_refresh.adapters.stores import open_store
from phr_refresh.adapters.stores.redis_acl import acl_rule
from phr_refresh.adapters.stores.redis_urls import RedisTarget

TEXT = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    redis-cli ([A-Z][^\n]*)$", TEXT, re.MULTILINE)
URLS = re.findall(r"rediss?(?:\+\w+)?://phr-refresh:[^\s`]+", TEXT)


def test_the_rule_is_the_one_that_is_shipped():
    """The line in the page is what the program prints."""
    assert f"\n    {acl_rule()}\n" in TEXT


def test_the_program_prints_the_rule_with_the_hash():
    """As the page says, from a file with the password."""
    [name] = re.findall(r"phr-refresh (\S+) < password-file", TEXT)
    command = [sys.executable, "-m", "phr_refresh", name]
    done = subprocess.run(command, input="hunter2\n", capture_output=True, text=True, timeout=60, check=False)
    assert (f"{acl_rule(password='hunter2')}\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("url", URLS)
def test_each_url_is_one(url):
    """It is taken as it stands; nothing is connected."""
    assert RedisTarget.parse(url).name.split("://")[0] == url.split("://")[0]
    open_store(url).close()


def test_each_option_is_one():
    """Those of the paragraph on URLs are taken, with a fitting value."""
    paragraph = next(part for part in TEXT.split("\n\n") if part.startswith("**URLs.**"))
    options = re.findall(r"`\??((?:socket|ssl|sentinel|max|health)_\w+|prefix)=?`", paragraph)
    assert len(options) >= 12
    for option in options:
        value = "0" if option == "ssl_check_hostname" else "1"
        target = RedisTarget.parse(f"rediss+sentinel://h/s?{option}={value}")
        assert "sentinel" == target.kind
    with pytest.raises(ConfigurationError):
        RedisTarget.parse("rediss+sentinel://h/s?another=1")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("CONFIG")])
def test_each_setting_is_one(own_server, command):
    """The server takes what the page tells to set."""
    with closing(own_server.client()) as client:
        assert client.execute_command(*command.split()) in (b"OK", True)


def test_the_sentinel_command_names_the_primary(fleets):
    """As the page says, under another name."""
    [command] = re.findall(r"-p 26379 (SENTINEL [^\n]+)", TEXT)
    watched = fleets.watched()

    assert watched.servers[0].port == int(watched.sentinels[0].ask(*command.replace("portal", "login").split())[1])
