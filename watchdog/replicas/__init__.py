"""Many replicas of a Python server on one database: who runs what, and who acts."""
