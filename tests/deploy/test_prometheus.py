"""The scrape configuration and the alert rules, checked and run by promtool, and held against the real metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.files import FOLDER, documents, run
from tests.fakes.clock import FakeClock
from tests.support.database import OpencodeFile
from tests.support.debian import require
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program
from tests.support.waiting import SECONDS, wait_until
from watchdog.model.session import ServerName
from watchdog.reporting.metrics import CAUSES, STATES, Metrics

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - made for the test


LATER = {
    "opencode_watchdog_verdicts_total", "opencode_watchdog_outcomes_total", "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}  # fmt: skip
"""Series that begin with the first verdict, or with the process."""


def rules() -> dict[str, str]:
    (document,) = documents("alerts.yml")
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    promtool = require("promtool")
    code, said = run(promtool, "check", "rules", "alerts.yml")
    assert code == 0, said
    code, said = run(promtool, "test", "rules", "alerts.test.yml")
    assert code == 0, said


def test_a_rule_that_tells_something_else_fails_its_test(tmp_path: Path) -> None:
    promtool = require("promtool")
    text = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    wrong = re.sub(r"(_degraded\{.*\}) == 1", r"\1 == 0", text)
    assert wrong != text
    (tmp_path / "alerts.yml").write_text(wrong, encoding="utf-8")
    shutil.copy(FOLDER / "alerts.test.yml", tmp_path)
    assert run(promtool, "test", "rules", "alerts.test.yml", folder=tmp_path)[0] == 1


def test_promtool_takes_the_scrape_configuration(tmp_path: Path) -> None:
    promtool = require("promtool")
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "control-token").write_text("x", encoding="utf-8")
    code, said = run(promtool, "check", "config", "prometheus.yml", folder=tmp_path)
    assert code == 0, said


def test_every_rule_speaks_of_metrics_and_labels_that_there_are() -> None:
    metrics = Metrics(version="1", servers=[ServerName("http://127.0.0.1:4096")], clock=FakeClock(), reads=dict)
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    for alert, expression in rules().items():
        names = re.findall(r"opencode_watchdog_\w+", expression)
        assert names or "up{" in expression, alert
        assert set(names) <= known, alert
        for label, value in re.findall(r'(state|cause)="(\w+)"', expression):
            assert value in (STATES if label == "state" else CAUSES), alert


def queries() -> dict[str, str]:
    """What each panel of the dashboard asks, with the job that the rules ask for."""
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    return {
        f"{panel['title']}, {target['refId']}": target["expr"].replace("$job", "opencode-watchdog")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def test_every_panel_of_the_dashboard_speaks_of_metrics_and_labels_that_there_are(tmp_path: Path) -> None:
    metrics = Metrics(version="1", servers=[ServerName("http://127.0.0.1:4096")], clock=FakeClock(), reads=dict)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    known: dict[str, set[str]] = {}
    for sample in samples:
        known.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    for panel, expression in queries().items():
        names = set(re.findall(r"\b(?:opencode_watchdog|process)_\w+", expression))
        assert names, panel
        families = {re.sub(r"_bucket$", "_count", name) for name in names}
        assert families <= {*known, *LATER}, panel
        for value in re.findall(r'state="(\w+)"', expression):
            assert value in STATES, panel
    rules_of_panels = {"groups": [{"name": "panels", "rules": [
        {"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(queries().values())
    ]}]}  # fmt: skip
    (tmp_path / "panels.yml").write_text(yaml.safe_dump(rules_of_panels), encoding="utf-8")
    code, said = run(require("promtool"), "check", "rules", "panels.yml", folder=tmp_path)
    assert code == 0, said


def test_every_rule_has_a_test_that_fires_and_a_line_on_the_page() -> None:
    (tests,) = documents("alerts.test.yml")
    fired = {
        each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if each.get("exp_alerts")
    }
    told = set(re.findall(r"^\| `(\w+)` \|", (FOLDER / "prometheus.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert fired == told == set(rules())


def test_the_job_is_the_one_that_the_rules_ask_for() -> None:
    (config,) = documents("prometheus.yml")
    (job,) = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in rules()["OpencodeWatchdogDown"]
    assert config["rule_files"] == ["alerts.yml"]


async def test_a_real_prometheus_reads_a_real_watchdog_and_evaluates_the_rules(
    program: Program, rows: OpencodeFile, tmp_path: Path
) -> None:
    prometheus = require("prometheus")
    watchdog, port = f"127.0.0.1:{free_port()}", free_port()
    program.settings(
        database=str(rows.path),
        servers=[NOWHERE],
        discover=False,
        poll_interval=0.2,
        control=watchdog,
        control_token=TOKEN,
    )
    scraping = tmp_path / "prometheus"
    scraping.mkdir()
    (config,) = documents("prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [watchdog]}]
    (scraping / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (scraping / "control-token").write_text(TOKEN, encoding="utf-8")
    shutil.copy(FOLDER / "alerts.yml", scraping)
    line = [prometheus, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]
    async with (
        program.started("run") as running,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client,
    ):
        await running.said("control.listening")
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [*line, f"--web.listen-address=127.0.0.1:{port}"], cwd=scraping, stdout=log, stderr=log
            )
        try:

            async def value(query: str) -> str | None:
                try:
                    found = (await client.get("/api/v1/query", params={"query": query})).json()["data"]["result"]
                except (httpx.HTTPError, ValueError, KeyError):
                    return None
                return str(found[0]["value"][1]) if found else None

            wanted = {
                "opencode_watchdog_acting": "1",
                'up{job="opencode-watchdog"}': "1",
                "opencode_watchdog_feed_connected": "0",
                "opencode_watchdog_tick_duration_seconds_count > bool 0": "1",
            }

            async def read() -> bool:
                return {query: await value(query) for query in wanted} == wanted

            # Where a scrape took longer than it may, the next one is waited for.
            await wait_until(read, "a scrape", explain=(tmp_path / "prometheus.log").read_text)

            async def only_deaf() -> bool:
                groups: list[dict[str, Any]] = (await client.get("/api/v1/rules")).json()["data"]["groups"]
                states = {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}
                assert states.keys() == rules().keys()
                return {name for name, state in states.items() if state != "inactive"} == {"OpencodeWatchdogDeaf"}

            await wait_until(only_deaf, "the rule that holds, and no other", explain=running.stderr)
        finally:
            process.terminate()
            process.wait(SECONDS)
