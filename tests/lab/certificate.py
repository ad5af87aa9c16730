"""The certificate of the lab's HAProxy, made by the lab for one cell."""

from pathlib import Path

import trustme

CERTIFICATE, AUTHORITY = "lab.pem", "lab-authority.pem"


def make_certificate(folder: Path, host: str) -> Path:
    """Write into `folder` a certificate for an address, with its key, as HAProxy wants it: `CERTIFICATE`.

    The path of the certificate that it is signed with, which clients are to trust, is returned.
    """
    signer = trustme.CA()
    signer.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(folder / CERTIFICATE))
    authority = folder / AUTHORITY
    signer.cert_pem.write_to_path(str(authority))
    return authority
