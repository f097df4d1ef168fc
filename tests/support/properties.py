"""How Hypothesis runs on a machine that may be slow."""

from typing import Final

from hypothesis import HealthCheck, settings

ANY_MACHINE: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""As it is, but no example is wrong because it took long."""
