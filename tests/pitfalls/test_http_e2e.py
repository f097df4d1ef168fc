"""The wire, on real servers: where they are found, and who gets their password."""

from pathlib import Path

import pytest

from tests.support.opencode import Lab, Server
from tests.support.program import NOWHERE
from tests.support.prompts import sleep
from tests.support.recorder import recorder
from tests.support.scripted_model import script, use
from tests.support.watchdog_run import Running, Setting, Watchdog
from watchdog.model.report import Endpoint
from watchdog.observing.endpoints import is_here, own_addresses

pytestmark = pytest.mark.e2e

PASSWORD = "a-password-of-its-own"  # noqa: S105 - of a server of this test

SECONDS: dict[str, Setting] = {"tool_timeouts": {"bash": 2}, "abort_grace": 10}


def lan_address() -> str:
    """An address of this machine that is no loopback address."""
    found = sorted(each for each in own_addresses() if "." in each and not each.startswith("127."))
    if not found:
        pytest.skip("this machine has no address but its loopback addresses")
    assert is_here(Endpoint(address=found[0], port=1))
    return found[0]


async def hung(server: Server, running: Running) -> None:
    """Let a call hang, and see it ended."""
    session = await server.create_session()
    await session.prompt(script(use(sleep())))
    await session.wait_for_bash()
    await running.wait_outcome(session.id, "recovered", kind="stuck_tool")


@pytest.mark.parametrize("hostname", ["127.0.0.2", "::1", "lan"])
async def test_a_server_on_another_address_of_this_machine_is_matched_and_found_all_the_same(
    lab: Lab, hostname: str
) -> None:
    """41."""
    server = await lab.serve(hostname=lan_address() if hostname == "lan" else hostname)
    watchdog = Watchdog.for_lab(lab, servers=[NOWHERE], discover=True, **SECONDS)
    async with watchdog.run() as running:
        await hung(server, running)
    checked = (await watchdog.command("check", "--json")).document
    assert {each["name"]: each["pid"] for each in checked["servers"]}[server.url] == server.pid


@pytest.mark.parametrize("found", [True, False], ids=["found", "configured"])
async def test_a_port_taken_by_somebody_elses_program_gets_no_password(
    lab: Lab, tmp_path: Path, *, found: bool
) -> None:
    """57 and 58."""
    server = await lab.serve(password=PASSWORD)
    servers = [NOWHERE] if found else [server.url]
    watchdog = Watchdog.for_lab(lab, servers=servers, discover=found, server_password=PASSWORD, **SECONDS)
    async with watchdog.run() as running:
        await hung(server, running)
        session = await server.create_session()
        await session.prompt(script(use(sleep())))
        await session.wait_for_bash()
        server.kill9()
        with recorder(tmp_path, "greedy", port=server.port, name="thief") as thief:
            if found:
                await running.wait_outcome(session.id, "recovered", kind="orphan")
                await running.wait_looks(5)
                assert thief.requests == []
                begun = {line["why"] for line in running.events("watch.degraded") if server.url in line["why"]}
                assert begun <= {line["was"] for line in running.events("watch.recovered")}  # it is forgotten
            else:
                await running.wait_for("watch.degraded", lambda line: "is not sent to it" in line["why"])
                await running.wait_looks(5)
                assert thief.requests
            assert thief.passwords == []
        if not found:
            again = await lab.serve(port=server.port, password=PASSWORD)
            await hung(again, running)


async def test_servers_of_two_passwords(lab: Lab) -> None:
    """58."""
    one, two = await lab.serve(password="one"), await lab.serve(password="two")  # noqa: S106
    watchdog = Watchdog.for_lab(lab, one, server_password="one", **SECONDS)  # noqa: S106
    checked = await watchdog.command("check", "--server", two.url)
    assert f"{two.url} answered 401: the password that is set is wrong" in checked.stdout
    discovering = Watchdog.for_lab(lab, one, discover=True, server_password="one", **SECONDS)  # noqa: S106
    found = await discovering.command("check")
    assert f"{two.url} answered 401: the password that is set is wrong" in found.stdout
    table = f'servers = ["{one.url}", {{ url = "{two.url}", password = "two" }}]'
    text = watchdog.config.read_text().splitlines()
    watchdog.config.write_text("\n".join([table, *(each for each in text if not each.startswith("servers"))]))
    async with watchdog.run() as running:
        await hung(two, running)
        await hung(one, running)
