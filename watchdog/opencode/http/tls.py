"""Certificates: which ones are trusted, and what is wrong with one, as a sentence."""

import ssl
from pathlib import Path
from typing import Final

import certifi

from watchdog.errors import SettingsError
from watchdog.settings.certificates import CERT_FILE, problem_with

# The numbers are OpenSSL's (X509_V_ERR_…); they have never changed.
_SELF_SIGNED: Final = frozenset({18})
_UNKNOWN_AUTHORITY: Final = frozenset({2, 19, 20, 21, 24, 27})
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_REVOKED: Final = 23
_WRONG_NAME: Final = frozenset({62, 63, 64})


def context(authorities: Path | None = None) -> ssl.SSLContext:
    """The context that checks a server's certificate.

    It trusts the machine's authorities (or those of SSL_CERT_FILE and SSL_CERT_DIR), the usual public ones, and those
    of the file. It also trusts a certificate in that file by itself.

    Raises:
        SettingsError: the file holds no certificate.
    """
    made = ssl.create_default_context()  # OpenSSL itself reads SSL_CERT_FILE and SSL_CERT_DIR
    made.load_verify_locations(cafile=certifi.where())
    if authorities is not None:
        problem = problem_with(authorities)
        if problem is not None:
            raise SettingsError(f"server_ca can't be {authorities}: {problem}.")
        made.load_verify_locations(cafile=authorities)
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Newer Pythons demand more of an authority than self-made ones have.
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made


def sentence(error: ssl.SSLError, host: str) -> str:
    """What is wrong with a certificate, or with TLS, and what to do; it follows the name of the server."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return _about_handshake(error)
    code = error.verify_code
    if code in _SELF_SIGNED:
        return (
            "has a certificate that it signed itself, which anybody can make. If it is yours, name the file of that "
            "certificate in `server_ca`."
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            "has a certificate of an authority that is not known here. Name the file of the authority's certificate "
            f"in `server_ca`, or in {CERT_FILE}."
        )
    if code == _EXPIRED:
        return "has a certificate that has expired: it needs a new one (or this machine's clock is wrong)."
    if code == _NOT_YET:
        return "has a certificate that is not valid yet: this machine's clock or the certificate is wrong."
    if code in _WRONG_NAME:
        return f"has a certificate for another name than {host}: name the server as its certificate does."
    if code == _REVOKED:
        return "has a certificate that was revoked: it needs a new one."
    return f"has a certificate that can't be trusted ({error.verify_message or 'no reason given'})."


def _about_handshake(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}:
        return "does not speak TLS: is it http:// instead of https://?"
    if "CERTIFICATE" in reason:
        return "asks for a certificate of the watchdog's own, which it has not: let it be asked without one."
    if "VERSION" in reason or "PROTOCOL" in reason:
        return "speaks only versions of TLS that are not used any more."
    return f"could not agree on TLS ({reason or type(error).__name__})."
