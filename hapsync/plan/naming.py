"""What a dynamic server is called, and which id it has in HAProxy.

Both follow from the instance and nothing else, so they are the same on every balancer, after every restart and after
every reload: a consistent hash by id and the stick tables keep their clients. No other instance gets the same id but
by chance, one in 2^28 a pair; within a backend that is looked at.
"""

import hashlib
import re
from collections.abc import Collection

from hapsync.plan.desired import DesiredServer

FIRST_ID = 1 << 24
"""Above the ids that HAProxy numbers the lines of a file with."""
LAST_ID = (1 << 28) - 1
"""A consistent hash takes the low 28 bits of an id (HAProxy's src/lb_chash.c)."""
_LABEL_LENGTH = 40


def dynamic_name(server: DesiredServer, taken: Collection[int]) -> str:
    """Return the name for `server`, with an id that is not in `taken`: `dyn-LABEL-ID`, LABEL its service id's signs.

    What HAProxy takes in no name becomes `_`, and a label ends after 40 signs.
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
