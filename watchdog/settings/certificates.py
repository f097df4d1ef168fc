"""Files of certificates, and problems with one."""

import ssl
from pathlib import Path

CERT_FILE = "SSL_CERT_FILE"
"""The environment variable with which OpenSSL names the machine's authorities."""


def problem_with(path: Path) -> str | None:
    """Why a file can't be used as a list of certificates, as the end of a sentence; None if it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return f"it can't be read ({(error.strerror or type(error).__name__).lower()})"
    return None
