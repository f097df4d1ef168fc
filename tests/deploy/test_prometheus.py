"""The scrape configuration and the alert rules, checked and run by promtool, and held against the real metrics."""

import re
import shutil
from pathlib import Path

from tests.deploy.files import FOLDER, documents, run
from tests.fakes.clock import FakeClock
from tests.support.debian import require
from watchdog.metrics import CAUSES, STATES, Metrics
from watchdog.model import ServerName


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
    text = (FOLDER / "alerts.yml").read_text(encoding="utf-8").replace("_degraded == 1", "_degraded == 0")
    (tmp_path / "alerts.yml").write_text(text, encoding="utf-8")
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
