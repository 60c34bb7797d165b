"""The least that the store's user in Redis or Valkey must be allowed, as a rule for `redis.conf` or an ACL file.

``phr-refresh acl-rule < password`` prints it, with the hash of the password in that file.
"""

import hashlib
from typing import Final

from .keys import DEFAULT_PREFIX, RedisKeys

#: Each with its reason. Scripts run with the rights of the user who calls them.
COMMANDS: Final = {
    "evalsha": "each call of the store is a script",
    "eval": "brings a script to a server that does not know it",
    "time": "the store's clock (in scripts, like those up to `zremrangebyscore`)",
    "get": "reads a record, or a session token",
    "set": "writes them",
    "del": "drops a token",
    "exists": "tells whether a patient who is due was forgotten",
    "zadd": "lists a patient in the due index",
    "zrem": "takes them out",
    "zrangebyscore": "finds who is due",
    "zremrangebyscore": "removes entries of those forgotten",
    "client|setname": "names the connection, for who looks at CLIENT LIST",
    "wait": "waits for replicas, where the policy asks for that",
    "cluster|slots": "Redis Cluster: which node keeps what",
    "asking": "Redis Cluster: goes with a command about a slot that is being moved",
    "role": "Sentinel: whether this is the primary",
}


def acl_rule(*, user: str = "phr-refresh", password: str = "", prefix: str = DEFAULT_PREFIX) -> str:
    """One line for `redis.conf` or for an ACL file: a user who may do what the store does, and nothing else.

    It holds the hash of `password`, never itself; without one the user cannot log in before they get one. For
    Redis 6.2 and later, and Valkey. Where another prefix is in use for the keys, say so: it is checked.
    """
    secret = f"#{hashlib.sha256(password.encode()).hexdigest()}" if password else "resetpass"
    commands = " ".join(f"+{command}" for command in COMMANDS)
    keys = f"~{RedisKeys(prefix).prefix}:*"
    return f"user {user} on {secret} resetchannels resetkeys {keys} -@all {commands}"
