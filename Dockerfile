# syntax=docker/dockerfile:1
# Two stages: the first one installs from the lock file with hashes, the second one carries only what runs.
# The lock file holds the extras, too: alerts and PostgreSQL need nothing more.
FROM python:3.13.1-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/watchdog
COPY requirements.lock ./
RUN /opt/watchdog/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE config.example.toml ./
COPY watchdog ./watchdog
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check hatchling==1.33.0 \
    && /opt/tools/bin/python -m hatchling build -t wheel \
    && /opt/watchdog/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps dist/*.whl

FROM python:3.13.1-slim-bookworm
COPY --from=build /opt/watchdog /opt/watchdog
# The user that runs opencode on most hosts; override it with --user to match the owner of the database.
RUN useradd --uid 1000 --create-home watchdog \
    && install --directory --owner watchdog --group watchdog --mode 0700 /state
USER 1000
ENV PATH=/opt/watchdog/bin:$PATH PYTHONUNBUFFERED=1 OPENCODE_WATCHDOG_LOG_FORMAT=json
# opencode's data folder, from the host: the database, its -wal and its -shm must be on the same kernel.
VOLUME /data
ENV OPENCODE_WATCHDOG_DATABASE=/data/opencode.db
# Healthy while somebody has looked at the database lately: a loop that hangs, or a database that is gone, is not.
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 \
    CMD ["opencode-watchdog", "check", "--alive"]
# The journal: what was done, the rows as they were, and what people said to leave alone. It must outlive the container.
VOLUME /state
ENV XDG_STATE_HOME=/state
STOPSIGNAL SIGTERM
ENTRYPOINT ["opencode-watchdog"]
CMD ["run"]
