"""The settings that decide what counts as stuck."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What `judge` allows. Durations in seconds; None turns a rule off.

    Attributes:
        tool_timeouts: overrides by tool name or glob pattern; the longest pattern that matches wins.
        orphan_looks: 2, or 1 for a look that only shows what it would do.
    """

    tool_timeout_seconds: float | None = 1800.0
    task_timeout_seconds: float | None = 7200.0
    idle_timeout_seconds: float | None = 900.0
    task_hard_timeout_seconds: float | None = None
    human_timeout_seconds: float | None = None
    shell_timeout_seconds: float | None = None
    tool_timeouts: Mapping[str, float | None] = field(default_factory=dict)
    declared_timeout_grace_seconds: float = 60.0
    max_declared_timeout_seconds: float = 21600.0
    orphan_grace_seconds: float = 30.0
    birth_margin_seconds: float = 5.0
    sole_owner: bool = False
    orphan_looks: int = 2
