"""The cases of the scan: forms of a backend, and words of a server line."""

from collections.abc import Mapping

from attrs import frozen

CHECKED = "check inter 500ms"


@frozen
class Case:
    """What stands on the server line and in its backend; `{port}`, `{agent}`, `{folder}` are filled in.

    `settings` and `sections` are further lines of `global`, and sections of their own. `is_compared`: a server that
    is added there is also compared with one of the file.
    """

    words: str = ""
    lines: tuple[str, ...] = ("option httpchk GET /check",)
    settings: str = ""
    sections: str = ""
    is_compared: bool = True


def _tls(words: str) -> Case:
    return Case(f"{CHECKED} ssl {words}")


WORDS: Mapping[str, Case] = {
    "nothing": Case(""),
    "check": Case(CHECKED),
    "rise, fall": Case(f"{CHECKED} rise 5 fall 7"),
    "fastinter, downinter": Case(f"{CHECKED} fastinter 50ms downinter 70ms"),
    "port": Case(f"{CHECKED} port {{port}}"),
    "addr": Case(f"{CHECKED} addr 127.0.0.1"),
    "addr, port": Case(f"{CHECKED} addr 127.0.0.1 port {{port}}"),
    "backup": Case(f"{CHECKED} backup"),
    "no-backup": Case(f"{CHECKED} no-backup"),
    "maxconn": Case(f"{CHECKED} maxconn 5"),
    "minconn": Case(f"{CHECKED} maxconn 10 minconn 2"),
    "maxqueue": Case(f"{CHECKED} maxqueue 7"),
    "slowstart": Case(f"{CHECKED} slowstart 20s"),
    "cookie": Case(f"{CHECKED} cookie abc", ("option httpchk GET /check", "cookie SRV insert")),
    "observe": Case(f"{CHECKED} observe layer7 error-limit 3 on-error mark-down"),
    "on-marked-down": Case(f"{CHECKED} on-marked-down shutdown-sessions"),
    "on-marked-up": Case(f"{CHECKED} on-marked-up shutdown-backup-sessions"),
    "agent-check": Case("agent-check agent-port {agent} agent-inter 100ms"),
    "agent-check, check": Case(f"{CHECKED} agent-check agent-port {{agent}} agent-inter 100ms"),
    "agent-addr, agent-send": Case(
        "agent-check agent-addr 127.0.0.1 agent-port {agent} agent-inter 100ms agent-send hello"
    ),
    "check-proto": Case(f"{CHECKED} check-proto h2"),
    "proto": Case("proto h2"),
    "proto, check": Case(f"{CHECKED} proto h2"),
    "ws": Case(f"{CHECKED} ws h1"),
    "send-proxy": Case(f"{CHECKED} send-proxy"),
    "send-proxy-v2": Case(f"{CHECKED} send-proxy-v2"),
    "send-proxy-v2-ssl": Case(f"{CHECKED} send-proxy-v2-ssl"),
    "send-proxy-v2-ssl-cn": Case(f"{CHECKED} send-proxy-v2-ssl-cn"),
    "proxy-v2-options": Case(f"{CHECKED} send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    "send-proxy, no check": Case("send-proxy"),
    "send-proxy, port": Case(f"{CHECKED} send-proxy port {{port}}"),
    "send-proxy, addr": Case(f"{CHECKED} send-proxy addr 127.0.0.1"),
    "check-send-proxy": Case(f"{CHECKED} check-send-proxy"),
    "check-send-proxy, port": Case(f"{CHECKED} check-send-proxy send-proxy-v2 port {{port}}"),
    "no-send-proxy": Case(f"{CHECKED} send-proxy no-send-proxy"),
    "no-send-proxy-v2": Case(f"{CHECKED} send-proxy-v2 no-send-proxy-v2"),
    "set-proxy-v2-tlv-fmt": Case(f"{CHECKED} send-proxy-v2 set-proxy-v2-tlv-fmt(0x20) %[str(x)]"),
    "ssl": _tls("verify none"),
    "ssl, no check": Case("ssl verify none"),
    "ssl, agent-check": Case("ssl verify none agent-check agent-port {agent} agent-inter 100ms"),
    "ssl, send-proxy": _tls("verify none send-proxy"),
    "ssl, send-proxy-v2-ssl": _tls("verify none send-proxy-v2-ssl"),
    "ssl, port": _tls("verify none port {port}"),
    "ssl, addr": _tls("verify none addr 127.0.0.1"),
    "ssl, check-ssl, port": _tls("verify none check-ssl port {port}"),
    "no-check-ssl": _tls("verify none no-check-ssl"),
    "check-ssl": Case(f"{CHECKED} check-ssl verify none"),
    "check-sni": _tls("verify none check-sni check.test"),
    "sni": _tls("verify none sni str(request.test)"),
    "sni, check-sni": _tls("verify none sni str(request.test) check-sni check.test"),
    "no-sni-auto": _tls("verify none no-sni-auto"),
    "no-check-sni-auto": _tls("verify none no-check-sni-auto"),
    "verify required": _tls("verify required ca-file {folder}/ca.pem"),
    "verifyhost": _tls("verify required ca-file {folder}/ca.pem verifyhost server.test"),
    "verifyhost of another": _tls("verify required ca-file {folder}/ca.pem verifyhost other.test"),
    "verifyhost, sni": _tls("verify required ca-file {folder}/ca.pem sni str(server.test) verifyhost server.test"),
    "sni decides the name": _tls(
        "verify required ca-file {folder}/ca.pem sni str(server.test) check-sni server.test"
    ),
    "no verify": Case(f"{CHECKED} ssl ca-file {{folder}}/ca.pem"),
    "crt": _tls("verify none crt {folder}/client.pem"),
    "crl-file": _tls("verify required ca-file {folder}/ca.pem crl-file {folder}/ca.pem"),
    "alpn h2": _tls("verify none alpn h2"),
    "alpn http/1.1": _tls("verify none alpn http/1.1"),
    "alpn h2,http/1.1": _tls("verify none alpn h2,http/1.1"),
    "check-alpn": _tls("verify none check-alpn http/1.1"),
    "alpn, check-alpn": _tls("verify none alpn h2 check-alpn h2"),
    "alpn h2, check-proto": _tls("verify none alpn h2 check-proto h2 check-alpn h2"),
    "npn": _tls("verify none npn http/1.1"),
    "ciphers": _tls(
        "verify none ssl-max-ver TLSv1.2 ciphers ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384"
    ),
    "ciphersuites": _tls("verify none ciphersuites TLS_AES_256_GCM_SHA384"),
    "curves": _tls("verify none curves P-256"),
    "sigalgs": _tls("verify none sigalgs ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256"),
    "client-sigalgs": _tls("verify none client-sigalgs ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256"),
    "force-tlsv12": _tls("verify none force-tlsv12"),
    "force-tlsv13": _tls("verify none force-tlsv13"),
    "ssl-min-ver": _tls("verify none ssl-min-ver TLSv1.3"),
    "ssl-max-ver": _tls("verify none ssl-max-ver TLSv1.2"),
    "no-tlsv13": _tls("verify none no-tlsv13"),
    "no-tlsv12": _tls("verify none no-tlsv12"),
    "tls-tickets": _tls("verify none tls-tickets"),
    "no-tls-tickets": _tls("verify none no-tls-tickets"),
    "no-ssl-reuse": _tls("verify none no-ssl-reuse"),
    "allow-0rtt": _tls("verify none allow-0rtt"),
    "renegotiate": _tls("verify none renegotiate"),
    "no-renegotiate": _tls("verify none no-renegotiate"),
    "ktls": _tls("verify none ktls on"),
    "ssl-default-server-options": Case(
        f"{CHECKED} ssl verify none", settings="ssl-default-server-options ssl-max-ver TLSv1.2 no-tls-tickets"
    ),
    "ssl-default-server-ciphers": Case(
        f"{CHECKED} ssl verify none ssl-max-ver TLSv1.2",
        settings="ssl-default-server-ciphers ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    "ssl-default-server-ciphersuites": Case(
        f"{CHECKED} ssl verify none", settings="ssl-default-server-ciphersuites TLS_CHACHA20_POLY1305_SHA256"
    ),
    "ssl-server-verify none": Case(f"{CHECKED} ssl", settings="ssl-server-verify none"),
    "ssl-server-verify required": Case(
        f"{CHECKED} ssl ca-file {{folder}}/ca.pem", settings="ssl-server-verify required"
    ),
    "ca-base, crt-base": Case(
        f"{CHECKED} ssl verify required ca-file ca.pem crt client.pem",
        settings="ca-base {folder}\n    crt-base {folder}",
    ),
    "source": Case(f"{CHECKED} source 127.0.0.3"),
    "usesrc": Case(f"{CHECKED} source 127.0.0.3 usesrc 127.0.0.3"),
    "tfo": Case(f"{CHECKED} tfo", ("option httpchk GET /check", "retry-on conn-failure empty-response")),
    "no-tfo": Case(f"{CHECKED} no-tfo"),
    "pool-max-conn": Case(f"{CHECKED} pool-max-conn 3"),
    "pool-low-conn": Case(f"{CHECKED} pool-low-conn 2"),
    "pool-purge-delay": Case(f"{CHECKED} pool-purge-delay 3s"),
    "pool-max-conn, pool-purge-delay": Case(f"{CHECKED} pool-max-conn -1 pool-purge-delay 5s"),
    "pool-conn-name": Case(f"{CHECKED} ssl verify none pool-conn-name str(x)"),
    "hash-key": Case(
        f"{CHECKED} hash-key addr-port", ("option httpchk GET /check", "balance uri", "hash-type consistent")
    ),
    "init-state": Case(f"{CHECKED} init-state down"),
    "init-state fully-down": Case(f"{CHECKED} init-state fully-down"),
    "idle-ping": Case(f"{CHECKED} proto h2 idle-ping 1s"),
    "strict-maxconn": Case(f"{CHECKED} maxconn 5 strict-maxconn"),
    "check-reuse-pool": Case(f"{CHECKED} check-reuse-pool"),
    "check-pool-conn-name": Case(f"{CHECKED} check-reuse-pool check-pool-conn-name x"),
    "shard": Case(f"{CHECKED} shard 1"),
    "track": Case("track tracked/t", sections="backend tracked\n    server t 127.0.0.1:{agent} check inter 500ms\n"),
    "healthcheck": Case(
        f"{CHECKED} healthcheck hc", ("option tcp-check",), sections="healthcheck hc\n    type httpchk GET /check\n"
    ),
    "disabled": Case(f"{CHECKED} disabled"),
    "enabled": Case(f"{CHECKED} enabled"),
    "weight": Case(f"{CHECKED} weight 10"),
    # What no `add server` is known to take.
    "resolvers": Case(f"{CHECKED} resolvers r", sections="resolvers r\n    nameserver n 127.0.0.1:1\n"),
    "init-addr": Case(f"{CHECKED} init-addr none"),
    "redir": Case(f"{CHECKED} redir http://a.test"),
    "namespace": Case(f"{CHECKED} namespace n"),
    "socks4": Case(f"{CHECKED} socks4 127.0.0.1:1"),
    "stick": Case(f"{CHECKED} stick"),
    "non-stick": Case(f"{CHECKED} non-stick"),
    "max-reuse": Case(f"{CHECKED} max-reuse 5"),
    "log-proto": Case(f"{CHECKED} log-proto legacy"),
    "tcp-ut": Case(f"{CHECKED} tcp-ut 5s"),
    "cc": Case(f"{CHECKED} cc reno"),
    "no-check": Case("no-check"),
    "no-ssl": Case("no-ssl"),
    "sni-auto": _tls("verify none sni-auto"),
    "check-sni-auto": _tls("verify none check-sni-auto"),
    "no-verifyhost": _tls("verify none no-verifyhost"),
    "guid": Case(f"{CHECKED} guid one"),
}
"""Words of a server line: alone, and with what decides how they act."""

_SETTINGS = "external-check\n    insecure-fork-wanted"
_MAILERS = "mailers m\n    mailer one 127.0.0.1:1\n"
_TABLE = "stick-table type string size 1k"


def _form(
    *lines: str, words: str = CHECKED, settings: str = "", sections: str = "", is_compared: bool = True
) -> Case:
    return Case(words, lines, settings, sections, is_compared)


FORMS: Mapping[str, Case] = {
    "plain": _form(),
    "leastconn": _form("balance leastconn"),
    "first": _form("balance first"),
    "random": _form("balance random"),
    "source, consistent": _form("balance source", "hash-type consistent"),
    "uri, consistent": _form("balance uri", "hash-type consistent", "hash-balance-factor 150"),
    "hdr, consistent": _form("balance hdr(host)", "hash-type consistent sdbm"),
    "url_param, consistent": _form("balance url_param a", "hash-type consistent"),
    "source": _form("balance source"),
    "static-rr": _form("balance static-rr"),
    "mode tcp": _form("mode tcp"),
    "rdp-cookie": _form("mode tcp", "balance rdp-cookie", "hash-type consistent"),
    "mode log": _form("mode log"),
    "mode spop": _form("mode spop"),
    "httpchk": _form("option httpchk GET /check"),
    "http-check send": _form("option httpchk", "http-check send meth GET uri /check hdr Host a.test"),
    "http-check connect": _form("option httpchk", "http-check connect", "http-check send meth GET uri /check"),
    "http-check connect ssl": _form(
        "option httpchk",
        "http-check connect ssl",
        "http-check send meth GET uri /check",
        words=f"{CHECKED} ssl verify none",
    ),
    "http-check connect default": _form(
        "option httpchk",
        "http-check connect default",
        "http-check send meth GET uri /check",
        words=f"{CHECKED} ssl verify none send-proxy",
    ),
    "http-check send-state": _form("option httpchk GET /check", "http-check send-state"),
    "http-check disable-on-404": _form("option httpchk GET /check", "http-check disable-on-404"),
    "httpchk, host": _form(
        "option httpchk",
        "http-check send meth GET uri /check ver HTTP/1.1 hdr Host a.test",
        words=f"{CHECKED} ssl verify none",
    ),
    "tcp-check": _form("option tcp-check"),
    "tcp-check of TLS": _form("option tcp-check", words=f"{CHECKED} ssl verify none"),
    "tcp-check of PROXY": _form("option tcp-check", words=f"{CHECKED} send-proxy-v2"),
    "no check option, TLS": _form(words=f"{CHECKED} ssl verify none"),
    "no check option, PROXY": _form(words=f"{CHECKED} send-proxy"),
    "tcp-check connect": _form(
        "option tcp-check",
        "tcp-check connect",
        "tcp-check send GET\\ /check\\ HTTP/1.0\\r\\n\\r\\n",
        "tcp-check expect string 200",
    ),
    "tcp-check connect, TLS": _form("option tcp-check", "tcp-check connect", words=f"{CHECKED} ssl verify none"),
    "tcp-check connect ssl": _form("option tcp-check", "tcp-check connect ssl", words=f"{CHECKED} ssl verify none"),
    "tcp-check connect default": _form(
        "option tcp-check", "tcp-check connect default", words=f"{CHECKED} ssl verify none send-proxy"
    ),
    "ssl-hello-chk": _form("mode tcp", "option ssl-hello-chk"),
    "smtpchk": _form("mode tcp", "option smtpchk"),
    "mysql-check": _form("mode tcp", "option mysql-check user a"),
    "pgsql-check": _form("mode tcp", "option pgsql-check user a"),
    "redis-check": _form("mode tcp", "option redis-check"),
    "ldap-check": _form("mode tcp", "option ldap-check"),
    "spop-check": _form("mode tcp", "option spop-check"),
    "external-check": _form(
        "option external-check", "external-check command /bin/true", settings=_SETTINGS, is_compared=False
    ),
    "external-check, agent-check": _form(
        "option external-check",
        "external-check command /bin/true",
        settings=_SETTINGS,
        words="agent-check agent-port {agent} agent-inter 100ms",
    ),
    "external-check, then httpchk": _form(
        "option external-check", "option httpchk GET /check", "external-check command /bin/true", settings=_SETTINGS
    ),
    "agent-check": _form(words=f"{CHECKED} agent-check agent-port {{agent}} agent-inter 100ms"),
    "cookie": _form("cookie SRV insert dynamic", "dynamic-cookie-key a"),
    "stick-table": _form(_TABLE, "stick on path"),
    "fullconn": _form("fullconn 100", words=f"{CHECKED} maxconn 10 minconn 2"),
    "http-reuse never": _form("http-reuse never"),
    "http-reuse aggressive": _form("http-reuse aggressive"),
    "source in the backend": _form("source 127.0.0.3"),
    "log-health-checks": _form("option log-health-checks", "log 127.0.0.1:1 local0"),
    "email-alert": _form(
        "email-alert mailers m", "email-alert from a@a.test", "email-alert to b@b.test", sections=_MAILERS
    ),
    "compression": _form("compression algo gzip"),
    "retry-on": _form("retry-on all-retryable-errors", "retries 3", "option redispatch 1"),
    "allbackups": _form("option allbackups", words=f"{CHECKED} backup"),
    "prefer-last-server": _form("option prefer-last-server"),
    "transparent": _form("option transparent", is_compared=False),
    "dispatch": _form("dispatch 127.0.0.1:1", is_compared=False),
    "load-server-state": _form("load-server-state-from-file global", settings="server-state-file {folder}/state"),
    "tcp-smart-connect": _form("option tcp-smart-connect", "option tcpka"),
    "use-server": _form("server other {address}", "use-server other if {{ path /other }}", is_compared=False),
    "server-template": _form("server-template other 2 {address} check", is_compared=False),
    "http-send-name-header": _form("http-send-name-header X-Server"),
    "disabled backend": _form("disabled", is_compared=False),
    "queue": _form("timeout queue 1s", words=f"{CHECKED} maxconn 1 maxqueue 1"),
}
"""Forms of a backend; each has servers with a check added to it."""

CASES: Mapping[str, Case] = {
    **{f"`{name}`" if name != "nothing" else name: case for name, case in WORDS.items()},
    **{f"form {name}": case for name, case in FORMS.items()},
}
"""All of them."""
COMPARED_SHORTLY = frozenset(
    {
        *("nothing", "`check`", "`backup`", "`maxconn`", "`slowstart`", "`agent-check, check`", "`proto, check`"),
        *("`send-proxy`", "`send-proxy-v2`", "`no-send-proxy`", "`send-proxy, port`", "`ssl`", "`ssl, send-proxy`"),
        *(
            "`ssl, port`",
            "`check-sni`",
            "`sni`",
            "`verify required`",
            "`verifyhost`",
            "`alpn h2`",
            "`crt`",
            "`source`",
        ),
        *("`track`", "form tcp-check of TLS", "form http-check connect default", "form stick-table"),
    }
)
"""Those that the short form compares; whether HAProxy lives it sees with all."""
