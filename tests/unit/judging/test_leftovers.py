"""Which commands are left over, whose they are, and which may have been started to stay."""

from dataclasses import replace

import pytest

from watchdog.judging.leftovers import MAY_BE_RUNNING, SLACK_MS, fate, left_over, runs, stays
from watchdog.model.leftovers import Command, CommandCall, Commands, LeftOver, Member
from watchdog.model.session import CallId, SessionId

BORN = 1_790_000_000_000
LATER = BORN + 3_600_000


def member(*words: str, pid: int = 4711, folder: str | None = "/project", nohup: bool = False) -> Member:
    return Member(pid=pid, birth=100, words=words, folder=folder, ignores_hangup=nohup)


def command(
    *members: Member, lives: bool | None = False, holds: bool = True, led: bool = True, ports: tuple[int, ...] = ()
) -> Command:
    return Command(
        session=4711,
        born_ms=BORN,
        opencode_pid=4700,
        opencode_lives=lives,
        opencode_holds=holds,
        led=led,
        members=members or (member("sleep", "600"),),
        listens=ports,
    )


def call(
    says: str = "sleep 600",
    *,
    id_: str = "prt_1",
    at: int = BORN - 100,
    ended: int | None = None,
    folder: str = "/project",
) -> CommandCall:
    return CommandCall(
        id=CallId(id_),
        session_id=SessionId("ses_1"),
        tool="bash",
        command=says,
        folders=frozenset({folder}),
        created_ms=at,
        ended_ms=ended,
    )


def judged(seen: Command, *calls: CommandCall) -> list[LeftOver]:
    return list(left_over([seen], calls, ended_by_ms=LATER))


class TestWhatIsLeftOver:
    def test_a_command_whose_opencode_is_gone_whatever_its_call(self) -> None:
        assert [each.why for each in judged(command())] == ["its opencode (process 4700) is gone"]
        assert [each.call for each in judged(command(), call())] == [call()]

    def test_a_command_whose_opencode_lives_and_whose_call_has_ended(self) -> None:
        (found,) = judged(command(lives=True), call(ended=BORN + 5000))
        assert found.why == "its call has ended, and its opencode (process 4700) goes on"

    @pytest.mark.parametrize(
        "calls",
        [
            (),
            (call(),),
            (call(ended=LATER + 1),),
            (call(ended=BORN + 5000), call(id_="prt_2")),
            (call(ended=BORN + 5000), call(id_="prt_2", ended=BORN + 6000)),
            (call(ended=BORN + 5000), call(id_="prt_2", at=LATER + 60_000)),
            (call(ended=BORN + 5000), call(id_="prt_2", at=LATER + 60_000, ended=LATER + 61_000)),
        ],
        ids=[
            "no call",
            "an open call",
            "a call that ended just now",
            "an open one fits, too",
            "two fit",
            "an open one from before the clock was set back",
            "one from then that may have ended just now",
        ],
    )
    def test_never_one_whose_opencode_lives_and_may_be_at_work_on_it(self, calls: tuple[CommandCall, ...]) -> None:
        assert judged(command(lives=True), *calls) == []

    def test_an_open_call_that_runs_something_else_or_elsewhere_is_no_sign_of_work(self) -> None:
        others = (call("sleep 601", id_="prt_2", at=LATER), call(id_="prt_3", at=LATER, folder="/elsewhere"))
        assert len(judged(command(lives=True), call(ended=BORN + 5000), *others)) == 1

    def test_never_one_whose_opencode_lives_and_works_on_another_database(self) -> None:
        assert judged(command(lives=True, holds=False), call(ended=BORN + 5000)) == []
        assert len(judged(command(lives=False, holds=False), call(ended=BORN + 5000))) == 1

    def test_never_one_of_which_nobody_can_tell_whether_its_opencode_lives(self) -> None:
        assert judged(command(lives=None), call(ended=BORN + 5000)) == []


class TestWhoseItIs:
    @pytest.mark.parametrize(
        "wrong",
        [
            call(at=BORN + SLACK_MS + 1),
            call(ended=BORN - SLACK_MS - 1),
            call(folder="/elsewhere"),
            call("sleep 601"),
        ],
        ids=["begun later", "ended earlier", "another folder", "another command"],
    )
    def test_a_call_that_differs_in_anything_is_not_its_call(self, wrong: CommandCall) -> None:
        assert [each.call for each in judged(command(), wrong)] == [None]

    def test_on_both_edges_of_the_calls_time_it_is(self) -> None:
        for each in (call(at=BORN + SLACK_MS), call(ended=BORN - SLACK_MS)):
            assert [found.call for found in judged(command(), each)] == [each]

    def test_of_two_calls_that_fit_it_belongs_to_neither(self) -> None:
        assert [each.call for each in judged(command(), call(), call(id_="prt_2"))] == [None]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("sleep", "600"), "sleep 600"),
            (("/bin/bash", "-c", "cd x && make"), "cd x && make"),
            (("sleep", "601"), "nohup sleep 601 >/dev/null 2>&1 & echo started; sleep 602"),
            (("sleep", "602"), "nohup sleep 601 >/dev/null 2>&1 & echo started; sleep 602"),
            (("node", "/usr/bin/npm", "test"), "CI=1 npm test"),
            (("/usr/bin/env", "node", "/usr/bin/npm", "test"), "npm test"),
            (("npm run dev",), "npm run dev"),
            (("sleep", "5"), "timeout 9m sleep 5"),
            (("cat",), "ls\ncat"),
            (("grep", "a b"), "grep 'a b' 2>/dev/null | head"),
        ],
    )
    def test_it_runs_what_the_call_ran(self, words: tuple[str, ...], says: str) -> None:
        assert runs(member(*words), says)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("sleep", "600"), "echo sleep 600"),
            (("bash",), "bash build.sh"),
            (("bash", "-c", "make"), "make all"),
            (("600",), "sleep 600"),
            (("",), "sleep 600"),
            (("npm run dev",), "npm run build"),
            (("node", "600"), "sleep 600"),
            (("sleep", "600"), ""),
            (("sleep", "600"), "sleep '600"),
            (("node", "x/sleep", "600", "1"), "sleep 600"),
        ],
    )
    def test_it_runs_something_else(self, words: tuple[str, ...], says: str) -> None:
        assert not runs(member(*words), says)


def test_its_name_holds_no_argument() -> None:
    assert command(member("/usr/bin/curl", "-u", "ann:secret")).name == "curl"
    assert command(member("npm run dev --token=secret")).name == "npm"
    assert command(member("")).name == "process"


class TestWhatMayHaveBeenStartedToStay:
    @pytest.mark.parametrize(
        "says",
        [
            "npm run dev &",
            "npm run dev > log 2>&1 &",
            "nohup ./serve",
            "setsid ./serve",
            "cd x; (./serve &); sleep 3",
            "bash -c 'nohup ./serve'",
            "tmux new -d ./serve",
            "./serve & disown",
        ],
    )
    def test_its_text_says_so(self, says: str) -> None:
        assert stays(command(), call(says)) is not None

    @pytest.mark.parametrize("says", ["make && make test", "make 2>&1 | tee log", "make &> log", "sleep 600"])
    def test_its_text_does_not(self, says: str) -> None:
        assert stays(command(member("bash", "-c", says)), call(says)) is None

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("ssh", "-fNM", "host"), "ssh -fNM host && rsync -a x host:"),
            (("emacs", "--daemon"), "emacs --daemon; emacsclient x"),
            (("node", "/usr/bin/npm", "start"), "npm start\nnpm test"),
        ],
    )
    def test_it_leads_a_session_and_is_not_the_last_that_the_shell_ran(
        self, words: tuple[str, ...], says: str
    ) -> None:
        assert stays(command(member(*words)), call(says)) == "it leads a session of its own, as a daemon does"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("bash", "-c", "ssh -fNM host && rsync -a x host:"), "ssh -fNM host && rsync -a x host:"),
            (("rsync", "-a", "x", "host:"), "ssh -fNM host && rsync -a x host:"),
            (("node", "/usr/bin/npm", "test"), "cd x && CI=1 npm test 2>&1"),
        ],
    )
    def test_the_shell_and_what_it_became_lead_one_too(self, words: tuple[str, ...], says: str) -> None:
        assert stays(command(member(*words)), call(says)) is None

    def test_it_listens_or_ignores_the_hangup_or_was_left_in_the_background_or_is_a_persons(self) -> None:
        assert stays(command(ports=(3000,)), call()) == "it listens on port 3000"
        assert stays(command(member("a"), member("b", pid=4712, nohup=True)), call()) is not None
        assert stays(command(led=False), call()) is not None
        assert stays(command(), replace(call(), personal=True)) == "a person ran it"

    def test_what_the_opencode_itself_ignores_says_nothing(self) -> None:
        both = member("sleep", "600", nohup=True), member("b", pid=4712, nohup=True)
        assert stays(command(*both), call()) is None


class TestWhatBecameOfTheCommandOfASettledCall:
    LEFT = LeftOver(command=command(), call=call(), why="its opencode is gone")
    SEEN = Commands(left=(LEFT,), placed={CallId("prt_1"): (4711,)}, complete=True)

    def test_it_runs_and_is_ended_only_if_that_is_wanted_and_nothing_speaks_against_it(self) -> None:
        runs_on = "Its command is still running (process 4711)."
        stays = replace(self.SEEN, left=(replace(self.LEFT, stays="its command has `&`"),))
        kept = replace(
            self.SEEN, left=(replace(self.LEFT, command=replace(command(), keep="an opencode runs in it")),)
        )
        at_work = replace(self.SEEN, left=())
        assert "is ended, too" in fate(self.SEEN, CallId("prt_1"), BORN, ends=True)
        assert fate(self.SEEN, CallId("prt_1"), BORN, ends=False) == runs_on
        assert {fate(each, CallId("prt_1"), BORN, ends=True) for each in (stays, kept, at_work)} == {runs_on}

    def test_it_is_gone_only_if_everything_was_seen_and_nothing_could_be_it(self) -> None:
        none = Commands(complete=True)
        older = replace(none, unplaced=(BORN - SLACK_MS - 1,))
        assert {fate(each, CallId("prt_1"), BORN, ends=True) for each in (none, older)} == {
            "No process of its command was found."
        }
        doubtful = (Commands(), replace(none, unplaced=(BORN - SLACK_MS,)))
        assert {fate(each, CallId("prt_1"), BORN, ends=True) for each in doubtful} == {MAY_BE_RUNNING}
