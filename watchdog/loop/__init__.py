"""Look, judge, act, rest."""
