"""Ways in which HAProxy asks Consul's DNS itself, with no tool beside it: `Dns`."""

from typing import ClassVar

from tests.lab.config import BACKEND, SERVER_OPTIONS, filled, template
from tests.lab.programs import CONSUL_DNS_PORT
from tests.lab.ways.beside import Beside

SLOTS = 128
"""More than the lab has servers; one that is not used costs nothing."""


class Dns(Beside):
    """SRV records and `server-template` (configuration.txt 2.6, sections 5.3.2 and 4.2).

    An answer holds as many instances as fit into `accepted_payload_size`, over TCP as well (seen with HAProxy 2.6 and
    Consul 1.8): with its default of 512 bytes the servers of a larger service would come and go with each answer
    (haproxy/haproxy#1160), and with this one a hundred fit over UDP, too. Consul leaves out what is critical. `hold
    obsolete` is 0 unless set, so a server that is no longer named leaves at once.
    """

    period: ClassVar[str]
    """How often it asks: `timeout resolve`, in HAProxy's words."""

    @classmethod
    def describe(cls, interval_seconds: float) -> str:  # noqa: ARG003
        return (
            f"HAProxy's own resolver asks Consul's DNS for SRV records over TCP every {cls.period} "
            f"(`timeout resolve`; `hold valid` the same, `hold obsolete` 0), `server-template` with {SLOTS} slots"
        )

    def prepare(self) -> None:
        servers = (
            f"    server-template {BACKEND} {SLOTS} _{BACKEND}._tcp.service.consul resolvers consul "
            f"resolve-opts allow-dup-ip resolve-prefer ipv4 init-addr none {SERVER_OPTIONS}\n"
        )
        resolvers = (
            "\nresolvers consul\n"
            f"    nameserver consul tcp@{self.place.consul.host}:{CONSUL_DNS_PORT}\n"
            "    accepted_payload_size 65535\n"
            f"    timeout resolve {self.period}\n"
            "    timeout retry 1s\n"
            f"    hold valid {self.period}\n"
            "    hold obsolete 0s\n"
        )
        text = filled(template(self.haproxy.socket_path), servers) + resolvers
        self.haproxy.config.write_text(text, encoding="utf-8")


class DnsSrv(Dns):
    """By HAProxy's default period."""

    name = "dns srv"
    period = "1s"


class FastDnsSrv(Dns):
    """As fast as anybody may want: each balancer asks ten times a second for each service."""

    name = "dns srv, 100 ms"
    period = "100ms"
