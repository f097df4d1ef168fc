"""A world of a seed, played in a process of its own."""

from dataclasses import replace

from simulation.play import Played, play
from simulation.writing import write


def play_seed(seed: int, days: float) -> Played:
    """Play the world of a seed. What happened in it is left out: only its failure is worth to be sent."""
    return replace(play(write(seed, days)), lines=())
