"""How Faust's own connection to Kafka proves who it is: from the settings of librdkafka. Libraries: Faust, aiokafka.

Faust brings its own client beside ours, which knows nothing of `SLUICE_KAFKA_CONFIG`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from sluice.errors import ConfigError

__all__ = ["credentials"]

PROTOCOLS = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def credentials(config: Mapping[str, str]) -> Any:
    """What `faust.App(broker_credentials=…)` takes; None where nothing is asked for.

    config: properties of librdkafka. Raises ConfigError for a protocol, a mechanism or a file that cannot be used.
    """
    protocol = config.get("security.protocol", "plaintext").lower()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"SLUICE_KAFKA_CONFIG: security.protocol={protocol}: allowed are {', '.join(PROTOCOLS)}")
    context = _context(config) if protocol.endswith("ssl") else None
    if not protocol.startswith("sasl"):
        return SSLCredentials(context) if context else None
    mechanism = config.get("sasl.mechanism") or config.get("sasl.mechanisms", "")
    if mechanism not in MECHANISMS:
        raise ConfigError(
            f"SLUICE_KAFKA_CONFIG: sasl.mechanism={mechanism}: `sluice process` knows {', '.join(MECHANISMS)}"
        )
    made = SASLCredentials(
        username=config.get("sasl.username", ""),
        password=config.get("sasl.password", ""),
        ssl_context=context,
        mechanism=mechanism,
    )
    made.protocol = type(made.protocol)(protocol.upper())
    return made


def _context(config: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=config.get("ssl.ca.location") or None, cadata=config.get("ssl.ca.pem") or None
        )
        if config.get("ssl.certificate.location"):
            context.load_cert_chain(
                config["ssl.certificate.location"],
                config.get("ssl.key.location") or None,
                config.get("ssl.key.password") or None,
            )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"SLUICE_KAFKA_CONFIG: the certificates cannot be read: {error}") from error
    if config.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    if config.get("enable.ssl.certificate.verification") == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
