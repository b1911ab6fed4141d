"""Whether certificate files can be used."""

from pathlib import Path

import pytest
import trustme

from proxy.config.certificates import pem_problems


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("one", "two"):
        issued = authority.issue_cert(f"{name}.example")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}-key.pem")
    (tmp_path / "junk.pem").write_text("junk")
    return tmp_path


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "found"),
    [
        pytest.param("ca.pem", "one.pem", "one-key.pem", [], id="good files"),
        pytest.param(None, None, None, [], id="no files"),
        pytest.param("junk.pem", None, None, ["junk.pem holds no certificate that can be read"], id="no authority"),
        pytest.param(
            None, "one.pem", "two-key.pem", ["one.pem and two-key.pem are not a certificate and its key"], id="no pair"
        ),
        pytest.param(
            None, "junk.pem", "one-key.pem", ["junk.pem and one-key.pem are not a certificate and its key"], id="junk"
        ),
    ],
)
def test_what_is_found(pems: Path, ca: str | None, certificate: str | None, key: str | None, found: list[str]) -> None:
    paths = [None if name is None else pems / name for name in (ca, certificate, key)]
    assert list(pem_problems(*paths)) == found
