"""The names of dynamic servers, and their ids in HAProxy.

Name and id follow from the instance alone, so they are the same on every balancer, after every restart and every
reload: a consistent hash by id and the stick tables keep their clients. Two instances have the same id only by
chance, one in 2^28 a pair; within a backend this is avoided.
"""

import hashlib
import re
from collections.abc import Collection

from hapsync.plan.desired import DesiredServer

FIRST_ID = 1 << 24
"""The first id, above the ids that HAProxy gives to the server lines of a file."""
LAST_ID = (1 << 28) - 1
"""The last id: a consistent hash uses the low 28 bits of an id (HAProxy's src/lb_chash.c)."""
_LABEL_LENGTH = 40


def dynamic_name(server: DesiredServer, taken: Collection[int]) -> str:
    """Return the name `dyn-LABEL-ID` of `server`, with an id that is not in `taken`; LABEL is made of its service id.

    A character that HAProxy does not take in names becomes `_`, and a label ends after 40 characters.
    """
    label = re.sub(r"[^A-Za-z0-9_.-]", "_", server.instance_id)[:_LABEL_LENGTH] or "_"
    turn = 0
    while (number := _id(server, turn)) in taken:
        turn += 1
    return f"dyn-{label}-{number:07x}"


def _id(server: DesiredServer, turn: int) -> int:
    who = "\0".join((server.node, server.instance_id, str(server.address), str(turn)))
    digest = hashlib.blake2b(who.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return FIRST_ID + int.from_bytes(digest) % (LAST_ID - FIRST_ID + 1)
