"""Every key and table that a store uses, and the reason of each lifetime. Nothing else builds a key.

Redis, `phr` being the prefix, `5a` the shard and `<user key>` the 22 characters of `statemachine.patient.key_of`:

=========================  ======  ==========================  ====================================================
key                        type    holds                       lives until
=========================  ======  ==========================  ====================================================
``phr:{5a}:r:<user key>``  string  8 characters of version,    `Change.keep_until`: past its window and its session,
                                   then the record             by the policy's retention; then the patient is forgotten
``phr:{5a}:t:<user key>``  string  the session token           `Change.token_expires_at`: a token that no longer opens
                                                               anything is not kept, whatever becomes of the record
``phr:{5a}:due``           zset    user key by `due_at`         no TTL: a write that leaves a waiting state removes
                                                               its entry; `due`, and each write, those of
                                                               forgotten records
=========================  ======  ==========================  ====================================================

The part in braces is the hash tag of Redis Cluster: record, token and due index of a patient always share a slot,
so that one script may touch them. 256 shards spread the patients over the nodes, and are few enough to be asked
for what is due in one go. The number of shards is part of the stored form: it cannot change under live data.

SQLite has the tables `record` (with `due_at` and `keep_until`) and `token`, keyed by the user key. Nothing there
expires by itself: rows past their time are not seen, and every write removes a few. The memory store does the same.

No key holds an identifier: the user key is a hash of the host's opaque user id.
"""

import re
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from ...statemachine.errors import ConfigurationError
from ...statemachine.patient import UserKey

DEFAULT_PREFIX: Final = "phr"
SHARDS: Final = 256

# Of ":{5a}:r:".
_SHARD_LENGTH: Final = 8
# No braces: the first pair of them in a key is its hash tag.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,31}")


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys under one prefix. Every byte of them is paid for once per patient."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigurationError(
                "the prefix of the store's keys",
                "it is not 1 to 32 letters, digits, '.', '_', ':' or '-'",
                "give another, such as ?prefix=phr",
            )

    def record(self, key: UserKey) -> str:
        """Where the record lies, its version before it."""
        return f"{self.prefix}:{{{_shard(key)}}}:r:{key}"

    def owner(self, record: bytes) -> UserKey:
        """Whose record lies there: what `record` was made of."""
        return record[len(self.prefix) + _SHARD_LENGTH :].decode("ascii", "replace")

    def token(self, key: UserKey) -> str:
        """Where the session token lies."""
        return f"{self.prefix}:{{{_shard(key)}}}:t:{key}"

    def due_index(self, key: UserKey) -> str:
        """The due index that lists this patient."""
        return f"{self.prefix}:{{{_shard(key)}}}:due"

    def shards(self) -> list[tuple[str, str]]:
        """Of each shard: its due index, and what its records' keys begin with."""
        heads = (f"{self.prefix}:{{{shard:02x}}}" for shard in range(SHARDS))
        return [(f"{head}:due", f"{head}:r:") for head in heads]


def _shard(key: UserKey) -> str:
    return f"{crc32(key.encode()) % SHARDS:02x}"
