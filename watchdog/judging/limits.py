"""How long a call may run, and how to say a duration."""

from fnmatch import fnmatchcase
from math import isfinite

from watchdog.model.policy import Policy
from watchdog.model.session import CallStatus, ToolCall

_DECLARE_NOTHING = frozenset(
    {
        "edit",
        "write",
        "read",
        "glob",
        "grep",
        "list",
        "patch",
        "multiedit",
        "apply_patch",
        "task",
        "question",
        "skill",
    }
    | {"todowrite", "todoread", "lsp", "codesearch", "websearch", "plan_enter", "plan_exit", "invalid"}
)
"""opencode's own tools that take no `timeout`; any other tool, of a plugin or of MCP, may take one."""
_SECONDS_UP_TO = 120
_MINUTES_UP_TO = 7200


def pattern_of(tool: str, policy: Policy) -> str | None:
    """The pattern of `tool_timeouts` that decides for a tool: the longest that matches; None if none does."""
    fitting = [pattern for pattern in policy.tool_timeouts if fnmatchcase(tool, pattern)]
    return max(fitting, key=lambda pattern: (len(pattern), pattern == tool, pattern), default=None)


def limit_of(call: ToolCall, policy: Policy) -> float | None:
    """How many seconds a call may run, or None for no limit.

    The longest pattern of `tool_timeouts` that matches the tool wins over `tool_timeout`. The timeout that the call
    declares itself, up to a cap and with a grace, can only lengthen it. A person's own command has a limit of its
    own.
    """
    if call.personal:
        return policy.shell_timeout_seconds
    return lengthened(tool_limit(call.tool, policy), call, policy)


def tool_limit(tool: str, policy: Policy) -> float | None:
    """How many seconds a call may run that declares no timeout of its own, or None for no limit."""
    pattern = pattern_of(tool, policy)
    return policy.tool_timeout_seconds if pattern is None else policy.tool_timeouts[pattern]


def lengthened(limit: float | None, call: ToolCall, policy: Policy) -> float | None:
    """The limit of a tool in seconds, lengthened by the timeout that a call declares itself.

    While its arguments still stream, it may yet declare as much as is allowed.
    """
    if limit is None:
        return None
    declared = (call.declared_timeout_ms or 0.0) / 1000
    if may_declare(call):
        declared = policy.max_declared_timeout_seconds
    return max(limit, declared_limit(declared, policy))


def declared_limit(seconds: float, policy: Policy) -> float:
    """How many seconds a call may run at least, because of the timeout that it declares; 0 without a usable one."""
    if not isfinite(seconds) or seconds <= 0:
        return 0.0
    return min(seconds, policy.max_declared_timeout_seconds) + policy.declared_timeout_grace_seconds


def may_declare(call: ToolCall) -> bool:
    """Whether it is not known yet which timeout a call declares, because its arguments still stream."""
    return call.status is CallStatus.PENDING and not call.declared_timeout_ms and call.tool not in _DECLARE_NOTHING


def duration(seconds: float) -> str:
    """A duration for people: `45 s`, `31 min`, `2.5 h`."""
    if seconds < _SECONDS_UP_TO:
        return f"{seconds:.3g} s"
    if seconds < _MINUTES_UP_TO:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.4g} h"


def shortest_limit(policy: Policy) -> float | None:
    """The shortest time, in seconds, after which something that just began may be past a limit; None without limits.

    `orphan_grace` is not one of them: it runs from one look to the next.
    """
    limits = (
        policy.tool_timeout_seconds,
        policy.task_timeout_seconds,
        policy.task_hard_timeout_seconds,
        policy.idle_timeout_seconds,
        policy.human_timeout_seconds,
        policy.shell_timeout_seconds,
        *policy.tool_timeouts.values(),
    )
    return min((limit for limit in limits if limit is not None), default=None)
