"""The way in: proofs, codes and sessions, decided without HTTP."""

import secrets

from watchdog.control.access.keys import MOST_SESSIONS, Keys, code_of, proof_of

TOKEN = "a-token-of-these-tests-0123456789"  # noqa: S105
ADDRESS = "127.0.0.1:4097"
NONCE = "ab" * 32


def ticket(keys: Keys, *, at: float = 0.0) -> str:
    found = keys.prove(address=ADDRESS, nonce=NONCE, now_seconds=at)
    assert found is not None
    return found[0]


def test_who_knows_the_token_shows_it_for_this_nonce_and_this_address_alone() -> None:
    found = Keys(lambda: TOKEN).prove(address=ADDRESS, nonce=NONCE, now_seconds=0.0)
    assert found is not None
    given, proof = found
    assert proof == proof_of(TOKEN, address=ADDRESS, nonce=NONCE, ticket=given)
    others = {
        proof_of(TOKEN, address="127.0.0.1:4098", nonce=NONCE, ticket=given),
        proof_of(TOKEN, address=ADDRESS, nonce="cd" * 32, ticket=given),
        proof_of(TOKEN + "x", address=ADDRESS, nonce=NONCE, ticket=given),
        proof_of(TOKEN, address=ADDRESS, nonce=NONCE, ticket=given + "0"),
    }
    assert proof not in others
    assert TOKEN not in given + proof


def test_a_code_opens_once_and_for_a_minute() -> None:
    keys = Keys(lambda: TOKEN)
    code = code_of(TOKEN, ticket(keys))
    session = keys.session(code, now_seconds=60.0)
    assert session is not None
    assert keys.admits(session)
    assert not keys.admits(code)
    assert keys.session(code, now_seconds=60.0) is None
    late = code_of(TOKEN, ticket(keys, at=100.0))
    assert keys.session(late, now_seconds=160.1) is None
    assert keys.session(code_of(TOKEN, ticket(keys, at=200.0)), now_seconds=259.0) is not None


def test_a_code_is_used_up_as_long_as_it_would_be_good() -> None:
    keys = Keys(lambda: TOKEN)
    first = code_of(TOKEN, ticket(keys, at=0.0))
    assert keys.session(first, now_seconds=0.0) is not None
    for at in range(1, 60):
        assert keys.session(code_of(TOKEN, ticket(keys, at=at)), now_seconds=at) is not None
        assert keys.session(first, now_seconds=at) is None
    assert keys.session(code_of(TOKEN, ticket(keys, at=500.0)), now_seconds=500.0) is not None
    assert len(keys._used) == 1


def test_what_is_no_code_opens_nothing() -> None:
    keys = Keys(lambda: TOKEN)
    given = ticket(keys)
    right = code_of(TOKEN, given)
    of_another_run = code_of(TOKEN, ticket(Keys(lambda: TOKEN)))
    for code in (
        "", ".", "-", "-.-", given, f"{given}.", f"{given}.{'0' * 64}", right[:-1], right + "0", right.upper(),
        code_of("another-token-0123456789", given), code_of(TOKEN, ""), code_of(TOKEN, "x-1-y"), of_another_run,
        right.replace("-0-", "-9-"), "\ud83d", TOKEN,
    ):  # fmt: skip
        assert keys.session(code, now_seconds=0.0) is None, code
    assert keys.session(right, now_seconds=0.0) is not None


def test_another_token_ends_whatever_was_given_for_the_one_before() -> None:
    tokens: list[str | None] = [TOKEN]
    keys = Keys(lambda: tokens[-1])
    unused, session = code_of(TOKEN, ticket(keys)), keys.session(code_of(TOKEN, ticket(keys)), now_seconds=0.0)
    assert session is not None
    tokens.append("another-token-0123456789")
    assert not keys.admits(session)
    assert not keys.admits(TOKEN)
    assert keys.admits("another-token-0123456789")
    assert keys.session(unused, now_seconds=0.0) is None
    assert keys.session(code_of("another-token-0123456789", unused.partition(".")[0]), now_seconds=0.0) is None
    tokens.append(None)
    assert not any(map(keys.admits, (session, TOKEN, "another-token-0123456789", "", "None")))
    assert keys.prove(address=ADDRESS, nonce=NONCE, now_seconds=0.0) is None


def test_sessions_are_bounded_and_the_oldest_goes() -> None:
    keys = Keys(lambda: TOKEN)
    given = [keys.session(code_of(TOKEN, ticket(keys)), now_seconds=0.0) or "" for _ in range(MOST_SESSIONS + 1)]
    assert [keys.admits(each) for each in given] == [False] + [True] * MOST_SESSIONS
    assert not keys.admits(secrets.token_urlsafe(32))
