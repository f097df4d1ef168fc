"""What `drain` prints for people."""

from watchdog.explaining.drain import Drain
from watchdog.reporting.tables import Screen
from watchdog.shown import stacked


def drain(screen: Screen, found: Drain) -> None:
    """Print what would be lost if the servers were restarted now."""
    for problem in found.problems:
        screen.line("problem", problem, "yellow")
    cells = [
        (("certain", "red") if each.certain else ("perhaps", "yellow"), each.session_id, each.why)
        for each in found.losses
    ]
    if screen.fancy:
        screen.rows("would be lost", ("", "what"), [(cell, stacked(id_, why)) for cell, id_, why in cells])
    else:
        screen.rows("lost", (), cells)
    screen.line("summary", summary(found), "bold green" if found.ready else "bold red")


def summary(found: Drain) -> str:
    """It in one sentence."""
    if found.ready:
        return "nothing would be lost if the servers were restarted now"
    if not found.losses:
        return "whether anything would be lost can't be told"
    many = len(found.losses)
    return f"{many} session{'' if many == 1 else 's'} would lose work if the servers were restarted now"
