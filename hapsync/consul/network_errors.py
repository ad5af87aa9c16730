"""Errors between hapsync and Consul's agent, as messages with a remedy.

The errors of TLS libraries do not name the wrong key. Each case here occurred with the real Consul, 1.8.7 and
1.14.11. No remedy is to verify less.
"""

import errno
import http.client
import ssl
from typing import TYPE_CHECKING

from hapsync.text import shown

if TYPE_CHECKING:
    from hapsync.consul.endpoint import Endpoint

_CONNECT_ROOT = (
    "where the agent has its certificate by auto_encrypt or auto_config, that is the Connect root, and not the CA "
    "that `consul tls` made: save what a Consul server answers to /v1/connect/ca/roots?pem=1 and name that file"
)
_NOT_SIGNED = "the agent's certificate is not signed by any CA in consul.ca_file; name the one that signed it; "
# X509_V_ERR_*, OpenSSL's verify(1)
_NO_ISSUER = {2, 18, 19, 20, 21}
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = {62, 64}


def words(error: Exception, where: "Endpoint") -> str:
    """Return the meaning of `error`, from a connection to `where`; a message puts it after the agent's name."""
    match error:
        case ssl.SSLError():
            return _tls_words(error, where)
        case ConnectionRefusedError():
            return "refuses the connection; is the agent running there?"
        case TimeoutError():
            return "gave no answer in time"
        case http.client.IncompleteRead():
            return "broke off in the middle of an answer"
        case http.client.RemoteDisconnected() | ConnectionResetError() | BrokenPipeError():
            what = "closed the connection without an answer"
            return what + (_WANTS_CERTIFICATE if where.tls is not None and not where.has_certificate else "")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "no file descriptor is left for it; raise LimitNOFILE (`ulimit -n`) above the number of services"
        case UnicodeError():
            return "is no host name"
        case http.client.BadStatusLine() if where.tls is None and str(error).startswith("\x15\x03"):
            return SPEAKS_TLS
        case OSError():
            return shown(error.strerror or str(error))
        case _:
            return f"answered nonsense ({type(error).__name__}: {shown(str(error))})"


_WANTS_CERTIFICATE = "; if it wants a client certificate (verify_incoming), set consul.cert_file and consul.key_file"
SPEAKS_TLS = 'wants TLS on this port; begin consul.address with "https://" (and set consul.ca_file)'


def is_told_to_speak_tls(status: int, body: bytes) -> bool:
    """Return whether an answer is a TLS port's answer to a plain request (Go's net/http, since 1.12)."""
    return status == http.HTTPStatus.BAD_REQUEST and b"HTTP request to an HTTPS server" in body


def _tls_words(error: ssl.SSLError, where: "Endpoint") -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {_certificate_words(error)}"
    reason = error.reason or ""
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}:
        return 'does not speak TLS on this port; begin consul.address with "http://", or name the port for https'
    if "ALERT" in reason:
        said = shown(reason.partition("ALERT_")[2].replace("_", " ").lower())
        if not where.has_certificate:
            return f"TLS: the agent ended it ({said}){_WANTS_CERTIFICATE}"
        if "expired" in said:
            return "TLS: the agent says that the certificate in consul.cert_file has expired; renew it"
        return (
            f"TLS: the agent refuses the certificate in consul.cert_file ({said}); it must be signed by the CA that "
            "the agent has as ca_file, and be valid now"
        )
    return f"TLS: {shown(error.strerror or str(error))}"


def _certificate_words(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _NO_ISSUER:
        return _NOT_SIGNED + _CONNECT_ROOT
    said = shown(error.verify_message)
    if error.verify_code == _EXPIRED:
        return f"the agent's certificate, or its CA's, has expired ({said}); renew it on the agent's side"
    if error.verify_code == _NOT_YET_VALID:
        return f"the agent's certificate is not valid yet ({said}); are the clocks of both machines right?"
    if error.verify_code in _WRONG_NAME:
        return (
            f"the agent's certificate is for other names ({said}); use one of its names in consul.address (Consul's "
            "own are `localhost` and, on servers, `server.DATACENTER.consul`), or add this one to it"
        )
    return said


def file_words(error: OSError, key: str, path: str) -> str:
    """Return the problem with the certificate file `path`, named by `key` of `[consul]`."""
    what = f"[consul] {key} {path}: "
    if not isinstance(error, ssl.SSLError):
        return what + (error.strerror or str(error))
    match error.reason:
        case "KEY_VALUES_MISMATCH":
            return what + "is not the key of the certificate in cert_file"
        case "NO_CERTIFICATE_OR_CRL_FOUND" | "NO_START_LINE" | None:
            return what + "holds no certificate (or key) in PEM form"
        case _:
            return what + shown(error.strerror or str(error))
