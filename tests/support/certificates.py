"""Certificates for TLS on loopback, made with the openssl command when a test needs them."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_DAYS: Final = "2"
_CONFIG: Final = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What a server shows it with."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.certificate, self.key)
        return made


class Authority:
    """An authority of a test's own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl command, which makes the certificates")
        folder.mkdir()
        self._folder = folder
        (folder / "index").touch()
        (folder / "serial").write_text("01\n", encoding="ascii")
        (folder / "config").write_text(_CONFIG.format(folder=folder), encoding="ascii")
        self._own = self.self_signed("authority", ca=True)

    @property
    def certificate(self) -> Path:
        """What makes it believed."""
        return self._own.certificate

    def self_signed(self, name: str, *, names: str = "IP:127.0.0.1", ca: bool = False) -> Pair:
        """A certificate that nobody else signed."""
        pair = self._pair(name)
        usage = (
            ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
            if ca
            else [f"subjectAltName={names}"]
        )
        self._openssl(
            "req", "-x509", *_new_key(pair), "-out", pair.certificate, "-days", _DAYS, "-subj", f"/CN={name}",
            *(each for extension in usage for each in ("-addext", extension)),
        )  # fmt: skip
        return pair

    def signed(
        self, name: str, *, names: str = "IP:127.0.0.1", start: str | None = None, end: str = "20991231000000Z"
    ) -> Pair:
        """A certificate that it signed, for these names and between these moments."""
        pair = self._pair(name)
        request = self._folder / f"{name}.csr"
        self._openssl(
            "req",
            "-new",
            *_new_key(pair),
            "-out",
            request,
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName={names}",
        )
        begin = () if start is None else ("-startdate", start)
        self._openssl(
            "ca", "-batch", "-notext", "-config", self._folder / "config", "-cert", self._own.certificate,
            "-keyfile", self._own.key, "-in", request, "-out", pair.certificate, *begin, "-enddate", end,
        )  # fmt: skip
        return pair

    def _pair(self, name: str) -> Pair:
        return Pair(certificate=self._folder / f"{name}.pem", key=self._folder / f"{name}.key")

    def _openssl(self, *arguments: object) -> None:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def _new_key(pair: Pair) -> tuple[object, ...]:
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key
