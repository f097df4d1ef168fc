"""Certificates: which are believed, and what is said of one that is not."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.certificates import Authority, Pair
from watchdog.errors import ServerUnreachable, ServerUntrusted, SettingsError
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.tls import sentence

PASSWORD = "hunter2"  # noqa: S105 - nobody may be told who shows no certificate that is believed


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@asynccontextmanager
async def over_tls(pair: Pair, *, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An opencode server behind TLS; yields its port."""
    answer = over_http(FakeServer())

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context or pair.context())
    async with server:
        yield server.sockets[0].getsockname()[1]


def asking(url: str, *, ca: Path | None = None) -> OpencodeServer:
    return OpencodeServer(
        url,
        clock=FakeClock(),
        rng=random.Random(1),  # noqa: S311
        server_ca=ca,
        password=PASSWORD,
        timeout_seconds=20,
    )


async def told(url: str, *, ca: Path | None = None) -> str:
    """What is said of a server that is not believed."""
    async with asking(url, ca=ca) as it:
        with pytest.raises(ServerUntrusted) as caught:
            await it.version()
        text = str(caught.value)
        assert text.startswith(f"{it.name} ")
        assert PASSWORD not in text
        assert await it.feed.sample(20) is not None
    return text


async def test_an_authority_of_ones_own_is_believed_when_it_is_named(authority: Authority) -> None:
    """65."""
    async with (
        over_tls(authority.signed("good")) as port,
        asking(f"https://127.0.0.1:{port}", ca=authority.certificate) as it,
    ):
        assert await it.version() == "1.18.33"
        assert str(it.leads_to[0]) == f"127.0.0.1:{port}"


async def test_one_that_is_not_named_is_not_believed(authority: Authority) -> None:
    """65: and what is said is about certificates."""
    async with over_tls(authority.signed("unnamed")) as port:
        text = await told(f"https://127.0.0.1:{port}")
    assert "a certificate of an authority that is not known here" in text
    assert "`server_ca`" in text


async def test_the_certificate_itself_is_believed_when_it_is_named(authority: Authority) -> None:
    own, leaf = authority.self_signed("alone"), authority.signed("pinned")
    for pair in (own, leaf):
        async with over_tls(pair) as port, asking(f"https://127.0.0.1:{port}", ca=pair.certificate) as it:
            assert await it.version() == "1.18.33"


async def test_one_that_signed_itself(authority: Authority) -> None:
    async with over_tls(authority.self_signed("itself")) as port:
        assert "a certificate that it signed itself" in await told(f"https://127.0.0.1:{port}")


async def test_one_for_another_name(authority: Authority) -> None:
    async with over_tls(authority.signed("other", names="DNS:box.example.org")) as port:
        for host in ("127.0.0.1", "localhost"):
            text = await told(f"https://{host}:{port}", ca=authority.certificate)
            assert f"a certificate for another name than {host}" in text


async def test_one_that_has_expired(authority: Authority) -> None:
    pair = authority.signed("old", start="20200101000000Z", end="20210101000000Z")
    async with over_tls(pair) as port:
        text = await told(f"https://127.0.0.1:{port}", ca=authority.certificate)
    assert "a certificate that has expired" in text


async def test_one_that_is_not_valid_yet(authority: Authority) -> None:
    async with over_tls(authority.signed("young", start="20900101000000Z")) as port:
        text = await told(f"https://127.0.0.1:{port}", ca=authority.certificate)
    assert "not valid yet" in text


async def test_a_server_that_wants_a_certificate_of_the_watchdogs(authority: Authority) -> None:
    pair = authority.signed("strict")
    context = pair.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    async with (
        over_tls(pair, context=context) as port,
        asking(f"https://127.0.0.1:{port}", ca=authority.certificate) as it,
    ):
        # Its word may be lost: it resets a connection on which it has not read everything.
        with pytest.raises(ServerUnreachable, match=r"a certificate of the watchdog's own|can't be reached"):
            await it.version()


async def test_plain_http_behind_https_and_the_other_way_round(authority: Authority) -> None:
    async def bewildered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with loopback(bewildered) as url:
        text = await told(url.replace("http:", "https:"))
        assert "does not speak TLS: is it http://" in text
    async with over_tls(authority.signed("both")) as port, asking(f"http://127.0.0.1:{port}") as it:
        with pytest.raises(Exception, match=r"it speaks TLS; is it https://|can't be reached"):
            await it.version()


async def test_the_files_of_the_environment_are_honoured(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with over_tls(authority.signed("named")) as port, asking(f"https://127.0.0.1:{port}") as it:
        assert await it.version() == "1.18.33"


def test_a_file_without_certificates_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        asking("https://h", ca=tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "a certificate of the watchdog's own"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "versions of TLS that are not used any more"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "could not agree on TLS (SSLV3_ALERT_HANDSHAKE_FAILURE)"),
        (None, "could not agree on TLS (SSLError)"),
    ],
)
def test_what_is_said_of_a_handshake(reason: str | None, says: str) -> None:
    error = ssl.SSLError(1, "text")
    error.reason = reason or ""
    assert says in sentence(error, "box")


@pytest.mark.parametrize("code", [2, 9, 10, 18, 19, 20, 21, 23, 62, 64, 79])
def test_everything_wrong_with_a_certificate_has_a_sentence(code: int) -> None:
    error = ssl.SSLCertVerificationError(1, "text")
    error.verify_code, error.verify_message = code, "invalid CA certificate"
    text = sentence(error, "box")
    assert text.startswith("has a certificate")
    assert text.endswith(".")
