"""The main job on an embedded default: no opencode, no node, and the real watchdog. `python -m watchdog.demo`."""
