"""`run --control` and `page`, as a person starts them."""

import asyncio
import contextlib
import json
import re
import socket
import stat

import httpx

from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program, path, program, python, rows, with_variables
from tests.support.waiting import wait_until
from watchdog.control.events import MOST_UNREAD, Events
from watchdog.errors import DatabaseUnavailable

__all__ = ["path", "program", "rows"]


def watching(program: Program, rows: OpencodeFile, **more: str | float | bool | list[str]) -> str:
    """Settings for a quick `run` with its API at a free address."""
    address = f"127.0.0.1:{free_port()}"
    settings = {"poll_interval": 0.1, "log_format": "json", "control": address, "discover": False, **more}
    program.settings(database=str(rows.path), servers=[NOWHERE], **settings)
    return address


ONCE = "The link works once, within a minute.\n"
KEPT = ".local/state/opencode-watchdog/control-token"
NOTE = ".local/state/opencode-watchdog/control-address"


async def entered(client: httpx.AsyncClient, link: str) -> httpx.Response:
    """Come in by a link, as the page does."""
    code = link.strip().partition("#code=")[2]
    return await client.post("/door/session", json={"code": code})


async def test_the_link_of_the_page_opens_once_and_holds_no_token(program: Program, rows: OpencodeFile) -> None:
    address = watching(program, rows)
    async with (
        program.started("run") as running,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=60, trust_env=False) as client,
    ):
        await running.said("control.listening")
        printed = await program.run("page", "--no-browser")
        assert re.fullmatch(rf"http://{address}/#code=[\w.-]+\n", printed.stdout), printed
        assert (printed.code, printed.stderr) == (0, ONCE)
        kept = program.home / KEPT
        token = kept.read_text().strip()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert token not in printed.stdout + running.stderr()
        assert (await client.get("/api/v1/sessions")).status_code == 401
        answer = await entered(client, printed.stdout)
        session = {"Authorization": f"Bearer {answer.json()['session']}"}
        assert token not in answer.text
        assert (await client.get("/api/v1/sessions", headers=session)).status_code in {200, 503}
        again = await entered(client, printed.stdout)
        assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (401, "stale-link")

        # Another token counts at once, and ends what the old one opened.
        renewed = await program.run("page", "--no-browser", "--new-token")
        assert renewed.code == 0, renewed
        assert renewed.stderr.startswith("There is a new token. The old one is worthless")
        for old in (session, {"Authorization": f"Bearer {token}"}):
            assert (await client.get("/api/v1/sessions", headers=old)).status_code == 401
        new = {"Authorization": f"Bearer {kept.read_text().strip()}"}
        assert (await client.get("/api/v1/sessions", headers=new)).status_code in {200, 503}
        assert (await entered(client, renewed.stdout)).status_code == 200
        assert running.process.poll() is None


async def test_the_browser_is_given_a_file_and_never_the_link_itself(program: Program, rows: OpencodeFile) -> None:
    watching(program, rows)
    code = "import webbrowser\nwebbrowser.open = lambda url: print('opened', url) or True"
    async with program.started("run") as running:
        await running.said("control.listening")
        printed = await Program(home=program.home, line=python(code)).run("page")
    link, opened = printed.stdout.splitlines()
    assert opened == f"opened {(program.home / '.local/state/opencode-watchdog/page.html').as_uri()}"
    file = program.home / ".local/state/opencode-watchdog/page.html"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f'url={link}"' in file.read_text()


async def test_page_says_that_nothing_listens_and_that_nothing_is_set(program: Program, rows: OpencodeFile) -> None:
    address = watching(program, rows)
    refused = await program.run("page")
    assert (refused.code, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"error: Nothing listens at {address}; start `opencode-watchdog run --control {address}`.\n"
    )
    watching(program, rows, control="off")
    refused = await program.run("page")
    assert (refused.code, refused.stdout) == (2, "")
    assert "No HTTP API is known" in refused.stderr
    renewed = await program.run("page", "--new-token")
    assert (renewed.code, renewed.stdout) == (0, "")


async def test_page_knows_where_the_api_that_was_started_last_is_until_it_ends(
    program: Program, rows: OpencodeFile
) -> None:
    address = watching(program, rows)
    watching(program, rows, control="off")
    async with program.started("run", "--control", address) as running:
        await running.said("control.listening")
        printed = await program.run("page", "--no-browser")
        assert printed.stdout.startswith(f"http://{address}/#code="), printed
        assert (printed.code, printed.stderr) == (0, ONCE)
        assert (program.home / NOTE).read_text() == f"{address}\n"
        running.process.terminate()
        await running.finished()
    assert not (program.home / NOTE).exists()


async def impostor(said: bytes, heard: list[bytes]) -> asyncio.Server:
    """Another user's program: it keeps what it is told, and says something."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"}"))
        writer.write(said)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


def answering(document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def test_whoever_took_the_noted_port_is_told_nothing_and_nothing_is_opened(
    program: Program, rows: OpencodeFile
) -> None:
    watching(program, rows, control="off")
    kept, noted = program.home / KEPT, program.home / NOTE
    kept.parent.mkdir(parents=True)
    kept.write_text("x" * 40)
    kept.chmod(0o600)
    opened = Program(home=program.home, line=python("import webbrowser\nwebbrowser.open = lambda _: 1 / 0"))
    echo = {"ticket": "00-1-00", "proof": "00" * 32}
    for said in (
        b"", b"\xff" * 100_000, b"HTTP/1.1 200 OK\r\n\r\n[" + b"[" * 10_000, b"HTTP/1.1 401 No\r\n\r\n{}",
        answering(echo), answering([]), answering({"ticket": 1, "proof": None}),
        answering({**echo, "proof": "\ud83d"}),
    ):  # fmt: skip
        heard: list[bytes] = []
        async with await impostor(said, heard) as taken:
            port = taken.sockets[0].getsockname()[1]
            noted.write_text(f"127.0.0.1:{port}\n")
            refused = await opened.run("page")
        assert (refused.code, refused.stdout) == (2, ""), said[:40]
        assert "does not show that it knows the token, so nothing is opened" in refused.stderr
        assert all(b"x" * 40 not in each and b"code" not in each for each in heard)
        assert len(heard) == 1


async def test_who_passes_it_on_to_the_watchdog_at_another_address_shows_nothing(
    program: Program, rows: OpencodeFile
) -> None:
    address = watching(program, rows)

    async def passes_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, to = await asyncio.open_connection(host, int(port))
        to.write(await reader.readuntil(b"}"))
        writer.write(await there.read())
        await writer.drain()
        writer.close()
        to.close()

    async with program.started("run") as running, await asyncio.start_server(passes_on, "127.0.0.1", 0) as relay:
        await running.said("control.listening")
        refused = await program.run("page", "--control", f"127.0.0.1:{relay.sockets[0].getsockname()[1]}")
    assert (refused.code, refused.stdout) == (2, "")
    assert "does not show that it knows the token" in refused.stderr


async def test_an_address_that_others_reach_needs_to_be_allowed(program: Program, rows: OpencodeFile) -> None:
    everywhere = f"{'.'.join('0' * 4)}:{free_port()}"
    watching(program, rows, control=everywhere)
    refused = await program.run("run")
    assert refused.code == 2
    assert f"other machines could reach {everywhere}" in refused.stderr
    assert "control_allow_remote = true" in refused.stderr
    watching(program, rows, control=everywhere, control_allow_remote=True)
    async with program.started("run") as running:
        await running.said("control.listening")


async def test_an_address_that_is_taken_is_a_clear_error(program: Program, rows: OpencodeFile) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        watching(program, rows, control=address)
        refused = await program.run("run")
    assert refused.code == 2
    assert refused.stderr.endswith(
        f"error: control: {address} can't be listened at: address already in use. Give another address, or end what "
        "has this one.\n"
    ), refused


async def test_a_token_that_others_can_read_stops_the_start(program: Program, rows: OpencodeFile) -> None:
    watching(program, rows)
    kept = program.home / ".local/state/opencode-watchdog/control-token"
    kept.parent.mkdir(parents=True)
    kept.write_text("x" * 40)
    kept.chmod(0o644)
    refused = await program.run("run")
    assert refused.code == 2
    assert "Others can read or write the token" in refused.stderr
    assert "x" * 40 not in refused.stderr


async def test_a_failure_of_the_api_is_told_and_the_loop_goes_on(program: Program, rows: OpencodeFile) -> None:
    watching(program, rows, log_level="debug")
    code = (
        "import uvicorn\n"
        "async def broken(self, sockets=None):\n    raise RuntimeError('broken')\n"
        "uvicorn.Server.serve = broken"
    )
    broken = Program(home=program.home, line=python(code))
    async with broken.started("run") as running:
        await running.said('"event": "control.failed"')
        looked = running.stderr().count("watch.looked")
        await wait_until(lambda: running.stderr().count("watch.looked") >= looked + 3, "three more looks")
        running.process.terminate()
        await asyncio.to_thread(running.process.wait, 60)
    assert running.process.returncode == 0
    events = [json.loads(line) for line in running.stderr().splitlines() if line.startswith("{")]
    failed = [each for each in events if each["event"] == "control.failed"]
    assert {each["level"] for each in failed} == {"error"}
    assert len({each["address"] for each in failed}) == 2  # for everybody, and at the socket of this user


async def test_a_token_from_the_environment_is_used_and_none_is_made(program: Program, rows: OpencodeFile) -> None:
    watching(program, rows)
    given = with_variables(program, {"OPENCODE_WATCHDOG_CONTROL_TOKEN": "from-the-environment-" * 2})
    async with given.started("run") as running:
        await running.said("control.listening")
        printed = await given.run("page", "--no-browser")
        other = await program.run("page", "--no-browser")
    assert printed.code == 0, printed
    assert (other.code, other.stdout) == (2, "")
    refused = await given.run("page", "--new-token")
    assert refused.code == 2
    assert "The token is the setting control_token" in refused.stderr
    assert "from-the-environment" not in printed.stdout + refused.stderr


async def test_a_reader_that_does_not_read_is_dropped_and_slows_nobody() -> None:
    events = Events(dry_run=False)
    with events.read(None) as slow, events.read(None) as other:
        for number in range(MOST_UNREAD + 1):
            events.unavailable(DatabaseUnavailable(f"gone {number}"), 1.0)
            events._unavailable = None
            other.live.receive_nowait()
        assert slow.dropped
        assert slow.scope.cancel_called
        assert not other.dropped


async def test_events_are_bounded_and_an_old_one_is_no_place_to_resume() -> None:
    events = Events(dry_run=False)
    for number in range(600):
        events.unavailable(DatabaseUnavailable(f"gone {number}"), 1.0)
        events._unavailable = None
    kept = list(events._kept)
    assert len(kept) == 500
    with events.read(kept[0].id) as reader:
        assert (reader.resumed, len(reader.missed)) == (True, 499)
    run = str(kept[0].id).partition("-")[0]
    with events.read(f"{run}-100") as reader:
        assert not reader.resumed
