"""Faust's own connection asks for what `SLUICE_KAFKA_CONFIG` says of ours."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from sluice.errors import ConfigError
from stream_processors.faust_auth import credentials

SECRET = "hunter2"


def test_nothing_is_asked_for_by_default() -> None:
    assert credentials({}) is None
    assert credentials({"security.protocol": "PLAINTEXT"}) is None


@pytest.mark.parametrize("protocol", ["sasl_plaintext", "SASL_SSL"])
@pytest.mark.parametrize("key", ["sasl.mechanism", "sasl.mechanisms"])
def test_user_and_password_reach_the_client(protocol: str, key: str) -> None:
    config = {"security.protocol": protocol, key: "SCRAM-SHA-512", "sasl.username": "me", "sasl.password": SECRET}
    given = credentials_to_aiokafka_auth(credentials(config))
    assert (given["security_protocol"], given["sasl_mechanism"]) == (protocol.upper(), "SCRAM-SHA-512")
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("me", SECRET)
    assert isinstance(given["ssl_context"], ssl.SSLContext) == (protocol == "SASL_SSL")


def test_certificates_are_checked_unless_told_otherwise() -> None:
    checked = credentials({"security.protocol": "ssl"}).context
    assert checked.check_hostname and checked.verify_mode == ssl.CERT_REQUIRED
    any_name = credentials({"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"}).context
    assert not any_name.check_hostname and any_name.verify_mode == ssl.CERT_REQUIRED
    unchecked = credentials({"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"}).context
    assert unchecked.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"security.protocol": "tls"}, "security.protocol=tls: allowed are plaintext, ssl"),
        (
            {"security.protocol": "sasl_ssl", "sasl.mechanism": "GSSAPI"},
            "sasl.mechanism=GSSAPI: `sluice process` knows",
        ),
        ({"security.protocol": "ssl", "ssl.ca.location": "/no/such"}, "the certificates cannot be read"),
    ],
)
def test_what_cannot_be_used_is_wrong_use(config: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        credentials({**config, "sasl.password": SECRET})
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_certificate_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing of the kind")
    with pytest.raises(ConfigError, match="the certificates cannot be read"):
        credentials({"security.protocol": "ssl", "ssl.ca.location": str(tmp_path / "ca.crt")})
