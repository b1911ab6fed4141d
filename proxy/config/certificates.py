"""Whether certificate files can be used, before anybody has to find out by serving with them."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PEM_ADVICE: Final = "name files in PEM format, the key without a passphrase and the certificate's own"


def pem_problems(ca: Path | None, certificate: Path | None, key: Path | None) -> Iterator[str]:
    """What is wrong with readable files: authorities, and a certificate with its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (ssl.SSLError, OSError):
            yield f"{ca.name} holds no certificate that can be read"
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=_refuse_passphrase)
        except (ssl.SSLError, OSError, ValueError):
            yield f"{certificate.name} and {key.name} are not a certificate and its key"


def _refuse_passphrase() -> str:
    # Without this OpenSSL would ask on the terminal, and wait.
    raise ValueError("the key is encrypted")
