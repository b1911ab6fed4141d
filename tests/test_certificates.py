"""Whether certificate files can be used, and what is said where they cannot."""

import ssl
from pathlib import Path
from typing import Final

import pytest
import trustme

from proxy.certificates import load_pair, server_context, upstream_context

LOCKED: Final = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgD3N3b/yMrkwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEPQIELlUcTcpAjsdb5fyhU0EgZB4
3VqfZuqrwNnudjbsEKGxHls1d4tCmsJASMcEKTMqiMMxLFoopiPEDOWo02wI9vR3
YlKRw8Y+F7KhfEXKF1KV4+h3tIB5WLACu8wu6ZTbP1Ed8PY+N+dA/cdAzrtS17Ok
gZe2ZlnAvzbAyiFPR3Hj41nCu7tURtP72jD2DCPUueJP1/en9T70/guS6zHh6qo=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    ca, other = trustme.CA(), trustme.CA()
    mine = ca.issue_cert("me.example")
    ca.cert_pem.write_to_path(tmp_path / "ca")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    mine.private_key_pem.write_to_path(tmp_path / "key")
    other.issue_cert("me.example").private_key_pem.write_to_path(tmp_path / "other")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "locked").write_text(LOCKED)
    return tmp_path


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "message"),
    [
        pytest.param("none", None, None, "none: No such file", id="no such authority"),
        pytest.param("junk", None, None, "junk: no certificate in PEM format", id="an authority that is none"),
        pytest.param(None, "none", "key", "No such file", id="no such certificate"),
        pytest.param(None, "cert", "none", "No such file", id="no such key"),
        pytest.param(
            None, "junk", "key", "junk, .*key: not a certificate with its key", id="a certificate that is none"
        ),
        pytest.param(None, "cert", "junk", "cert, .*junk: not a certificate with its key", id="a key that is none"),
        pytest.param(None, "junk", "junk", "junk: not a certificate with its key$", id="one file that is neither"),
        pytest.param(None, "cert", "other", "cert, .*other: not a certificate with its key", id="another's key"),
        pytest.param(None, "cert", "locked", "locked: the key is encrypted", id="a key with a passphrase"),
    ],
)
def test_what_is_wrong_is_said(
    pems: Path, ca: str | None, certificate: str | None, key: str | None, message: str
) -> None:
    paths = [None if name is None else pems / name for name in (ca, certificate, key)]
    with pytest.raises(ValueError, match=message):
        upstream_context(*paths)


def test_an_upstream_is_verified_with_and_without_files_of_ours(pems: Path) -> None:
    assert upstream_context(None, None, None).verify_mode is ssl.CERT_REQUIRED
    assert upstream_context(pems / "ca", pems / "cert", pems / "key").verify_mode is ssl.CERT_REQUIRED


def test_half_a_pair_leaves_the_good_one_in_place(pems: Path) -> None:
    context = server_context(pems / "cert", pems / "key")
    with pytest.raises(ValueError, match="not a certificate with its key"):
        load_pair(context, pems / "cert", pems / "other")
    client = upstream_context(pems / "ca", None, None)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = context.wrap_bio(incoming, outgoing, server_side=True)
    here = client.wrap_bio(outgoing, incoming, server_hostname="me.example")
    for _ in range(3):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert here.getpeercert()
