"""The way out for a person: release a session, delete the message that could not be deleted."""

import pytest

from tests.support.binaries import VERSIONS
from tests.support.opencode import Server, Session
from tests.support.prompts import QUESTION
from tests.support.waiting import SECONDS
from tests.support.watchdog_run import FORGOTTEN_GRACE, Watchdog


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_message_of_a_stuck_question_can_be_deleted_by_command_or_after_a_release(server: Server) -> None:
    lab = server.lab
    grace = FORGOTTEN_GRACE if server.forgets else SECONDS
    watchdog = Watchdog.for_lab(lab, server, abort_grace=grace)
    by_command, by_release = await server.create_session(), await server.create_session()
    for session in (by_command, by_release):
        await session.prompt(QUESTION)
        await session.wait_for_ask()
        refused = await session.delete_message(await _stuck_message(session))
        assert not refused.is_success, refused.text

    deleted = await watchdog.command(
        "delete-message", by_command.id, await _stuck_message(by_command), "--yes", "--json"
    )
    assert deleted.code == 0, deleted
    assert [message["info"]["role"] for message in await by_command.messages()] == ["user"]

    target = await _stuck_message(by_release)
    asked = await watchdog.command("release", by_release.id, "--json")
    assert asked.code == 2, asked
    assert (await by_release.status())["type"] == "busy"
    released = await watchdog.command("release", by_release.id, "--reason", "a test", "--yes", "--json")
    assert released.code == 0, released
    assert [outcome["result"] for outcome in released.document["outcomes"]] == ["recovered"]
    assert (await by_release.delete_message(target)).is_success
    assert [message["info"]["role"] for message in await by_release.messages()] == ["user"]

    for session in (by_command, by_release):
        await session.finish_prompt("go on")
    assert not lab.rows().open_ids


async def _stuck_message(session: Session) -> str:
    message_id: str = (await session.turns())[-1]["info"]["id"]
    return message_id
