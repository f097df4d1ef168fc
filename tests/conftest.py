"""What all tests share: a real PostgreSQL."""

from tests.support.postgres import own_cluster, postgres, postgres_rows, postgres_url

__all__ = ["own_cluster", "postgres", "postgres_rows", "postgres_url"]
