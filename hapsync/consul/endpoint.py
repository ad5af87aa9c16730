"""The agent as `[consul]` describes it: its address, the TLS context, the client certificate and the token."""

import os
import re
import ssl
import threading
import urllib.parse

import attrs

from hapsync.config.schema import ConsulConfig
from hapsync.consul.network_errors import file_words
from hapsync.errors import CatalogError
from hapsync.system.files import ensure_regular, read_text, signature


@attrs.frozen
class Endpoint:
    """The agent's address and the token for it; on a unix socket, `unix_path` replaces host and port.

    `has_certificate`: with TLS, hapsync presents a client certificate. The `token` is empty where there is none.
    """

    host: str
    port: int
    unix_path: str | None
    tls: ssl.SSLContext | None
    has_certificate: bool = False
    token: str = attrs.field(default="", repr=False)


def endpoint(config: ConsulConfig) -> Endpoint:
    """Return the endpoint that `[consul]` names, with its token.

    Raises CatalogError when a certificate file or the token file cannot be used.
    """
    return Endpoints(config).current()


def _without_token(config: ConsulConfig) -> Endpoint:
    if config.address.startswith("unix://"):
        return Endpoint("localhost", 0, config.address.removeprefix("unix://"), None)
    parts = urllib.parse.urlsplit(config.address)
    tls = None
    if parts.scheme == "https":
        tls = _tls_context(config)
    port = parts.port or (8501 if tls else 8500)
    return Endpoint(parts.hostname or "127.0.0.1", port, None, tls, has_certificate=bool(config.cert_file))


def _tls_context(config: ConsulConfig) -> ssl.SSLContext:
    files = {"ca_file": config.ca_file, "cert_file": config.cert_file, "key_file": config.key_file}
    key = ""
    try:
        for key, path in files.items():  # noqa: B007  # an error names it
            if path is not None:
                ensure_regular(path)
        key = "ca_file"
        tls = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file is not None:
            key = "cert_file"
            tls.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            key = "key_file"
        raise CatalogError(file_words(error, key, files[key] or "")) from error
    return tls


def _no_password() -> str:
    # Without this callback OpenSSL asks for the password on the terminal, and waits.
    raise CatalogError("[consul] key_file: is encrypted; give a key without a password, readable by the agent alone")


class Endpoints:
    """The endpoint that `[consul]` names, for all threads; current when a certificate or the token has changed.

    Consul's own certificates live for days (`auto_encrypt`, Vault), so a renewal must need no restart.
    """

    def __init__(self, config: ConsulConfig) -> None:
        """Raise CatalogError when a certificate file cannot be used."""
        self._config = config
        self._lock = threading.Lock()
        self._signatures = self._look()
        self._where = _without_token(config)

    def current(self) -> Endpoint:
        """Return the endpoint as the files are now: equal to the one before, if none has changed.

        Raises CatalogError when a file cannot be used.
        """
        with self._lock:
            signatures = self._look()
            if signatures != self._signatures:
                self._where = _without_token(self._config)
                self._signatures = signatures
            return attrs.evolve(self._where, token=read_token(self._config))

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        if not self._config.address.startswith("https:"):
            return ()
        files = (self._config.ca_file, self._config.cert_file, self._config.key_file)
        return tuple(signature(path) for path in files if path is not None)


def read_token(config: ConsulConfig) -> str:
    """Return the token: the first line of the file, else the configured token, else the one in CONSUL_HTTP_TOKEN.

    Raises CatalogError when the file cannot be read, is empty (as during a write), or holds no possible token.
    Without a token Consul shows almost nothing, and reports no error.
    """
    if config.token_file is not None:
        try:
            text = read_text(config.token_file)
        except OSError as error:
            raise CatalogError(f"[consul] token_file {config.token_file}: {error.strerror}") from error
        token = (text.splitlines() or [""])[0].strip()
        if not token:
            raise CatalogError(f"[consul] token_file {config.token_file}: no token in its first line")
    else:
        token = config.token or os.environ.get("CONSUL_HTTP_TOKEN", "")
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        where = f"token_file {config.token_file}" if config.token_file else "CONSUL_HTTP_TOKEN"
        raise CatalogError(f"[consul] {where}: not a token; it must be printable ASCII without spaces")
    return token
