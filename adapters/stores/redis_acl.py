"""The least that the store's user in Redis or Valkey must be allowed, as a rule for `redis.conf` or an ACL file.

``phr-refresh acl-rule < password`` prints it, with the hash of the password in that file.
"""

import hashlib
from typing import Final

from .keys import DEFAULT_PREFIX, RedisKeys

#: Each with its reason, and how the doctor tries it: what changes nothing, empty for what connecting takes anyway.
#: Scripts run with the rights of the user who calls them.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "evalsha": ("writes are scripts; so are reads, but from one server", "EVALSHA 0 1 {record}"),
    "eval": ("brings a script to a server that does not know it", "EVAL return 1 {record}"),
    "time": ("the store's clock", "TIME"),
    "get": ("reads a record", "GET {record}"),
    "mget": ("reads a record and its token at the same moment", "MGET {record}"),
    "set": ("writes records and tokens (in scripts, like those up to `zremrangebyscore`)", "SET {record} trial XX"),
    "del": ("drops a token", "DEL {token}"),
    "exists": ("tells whether a patient who is due was forgotten", "EXISTS {record}"),
    "zadd": ("lists a patient in the due index", "ZADD {index} XX 0 {key}"),
    "zrem": ("takes them out", "ZREM {index} {key}"),
    "zrangebyscore": ("finds who is due", "ZRANGEBYSCORE {index} -inf -inf WITHSCORES LIMIT 0 1"),
    "zremrangebyscore": ("removes entries of those forgotten", "ZREMRANGEBYSCORE {index} +inf -inf"),
    "client|setname": ("names the connection, for who looks at CLIENT LIST", ""),
    "wait": ("waits for replicas, where the policy asks for that", "WAIT 0 1"),
    "cluster|slots": ("Redis Cluster: which node keeps what", ""),
    "command": ("Redis Cluster: redis-py asks at first which commands there are", ""),
    "asking": ("Redis Cluster: goes with a command about a slot that is being moved", "ASKING"),
    "role": ("Sentinel: whether this is the primary", "ROLE"),
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
