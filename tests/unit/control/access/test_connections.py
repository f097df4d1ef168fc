"""Who has to go when there is no more room, decided without a socket."""

from watchdog.control.access.connections import MOST_KNOWN, MOST_OF_ONE_ADDRESS, MOST_STRANGERS, Connections


def test_who_comes_is_let_in_and_the_oldest_of_its_own_address_goes() -> None:
    crowd = Connections()
    came = [("10.0.0.1", port) for port in range(200)]
    gone = [crowd.enter(each) for each in came]
    assert gone == [None] * MOST_OF_ONE_ADDRESS + came[: 200 - MOST_OF_ONE_ADDRESS]


def test_many_addresses_push_out_the_one_that_has_most_and_never_a_single_one_that_came_later() -> None:
    crowd = Connections()
    for port in range(40):
        assert crowd.enter(("10.0.0.1", port)) is None
    for port in range(MOST_STRANGERS - 40):
        assert crowd.enter(("10.0.0.2", port)) is None
    probe = ("10.0.0.9", 1)
    assert crowd.enter(probe) == ("10.0.0.1", 0)
    gone = [crowd.enter(("10.0.0.1", port)) for port in range(100, 400)]
    gone += [crowd.enter(("10.0.0.2", port)) for port in range(100, 400)]
    assert None not in gone
    assert probe not in gone


def test_nobody_who_showed_the_token_goes_for_a_stranger() -> None:
    crowd = Connections()
    known = [("10.0.0.1", port) for port in range(MOST_KNOWN + 5)]
    for each in known:
        crowd.enter(each)
        crowd.asks(each, known=True)
    gone = {crowd.enter(("10.0.0.1", port)) for port in range(1000, 1300)}
    assert not gone & set(known[:MOST_KNOWN])
    assert gone >= set(known[MOST_KNOWN:])  # there is room for so many, and no more


def test_one_whose_token_is_worthless_by_now_is_a_stranger_again() -> None:
    crowd = Connections()
    peer = ("10.0.0.1", 0)
    crowd.enter(peer)
    crowd.asks(peer, known=True)
    crowd.asks(peer, known=False)
    gone = [crowd.enter(("10.0.0.1", port)) for port in range(1, MOST_OF_ONE_ADDRESS + 1)]
    assert gone[-1] is not None
    assert len(set(gone)) == 2


def test_who_left_takes_no_room() -> None:
    crowd = Connections()
    for port in range(500):
        assert crowd.enter(("10.0.0.1", port)) is None
        crowd.asks(("10.0.0.1", port), known=port % 2 == 0)
        crowd.leave(("10.0.0.1", port))
    crowd.leave(("10.0.0.1", 7))
