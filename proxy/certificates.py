"""Certificate files in PEM format: used by what serves and what fetches, and tried out by `check`."""

import ssl
from functools import partial
from pathlib import Path


def upstream_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS towards one upstream. Without `ca` the system's authorities are trusted, with it nobody but it.

    Raises ValueError, naming the file and what is wrong with it.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"{ca}: {_why(error, 'no certificate in PEM format')}") from error
    if certificate is not None and key is not None:
        load_pair(context, certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS towards clients. Raises ValueError as above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, certificate, key)
    return context


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Take up a certificate and its key, both or neither. Raises ValueError as above."""
    # OpenSSL has half a pair in place by the time it finds that the other half does not fit.
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            # Without a callback OpenSSL would ask for the passphrase on the terminal, and wait.
            target.load_cert_chain(certificate, key, password=partial(_refuse_passphrase, key))
        except OSError as error:
            raise ValueError(f"{certificate}, {key}: {_why(error, 'not a certificate with its key')}") from error


def _why(error: OSError, unusable: str) -> str:
    if not isinstance(error, ssl.SSLError):
        return str(error.strerror)
    return f"{unusable} ({error.reason})" if error.reason else unusable


def _refuse_passphrase(key: Path) -> str:
    raise ValueError(f"{key}: the key is encrypted; give one without a passphrase")
