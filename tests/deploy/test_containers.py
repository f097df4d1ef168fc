"""The compose file and the Kubernetes manifest, checked against the schemas that libraries carry."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.deploy.files import FOLDER, PROJECT, documents, run, settings_of
from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program, Started
from tests.support.waiting import SECONDS, wait_until

OLDEST_KUBERNETES = "1.29"
"""The first one with native sidecars switched on."""
BIN = Path(sys.executable).parent
KUBELET = {"Host": "10.1.2.3:4097"}


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [each for each in documents("kubernetes.yaml") if each["kind"] == kind]
    assert isinstance(found, dict)
    return found


def pod() -> dict[str, Any]:
    spec = manifest("StatefulSet")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def environ_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "from-a-secret-of-the-cluster-0123456789") for each in container["env"]}


# --- compose


def test_the_compose_file_fits_the_specification(tmp_path: Path) -> None:
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    code, said = run(*check, FOLDER / "compose.yaml")
    assert code == 0, said
    broken = tmp_path / "compose.yaml"
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8").replace("network_mode:", "network_modes:")
    broken.write_text(text, encoding="utf-8")
    assert run(*check, broken)[0] == 1


def test_in_compose_the_watchdog_is_a_sidecar() -> None:
    (compose,) = documents("compose.yaml")
    server, sidecar = compose["services"]["opencode"], compose["services"]["watchdog"]
    assert sidecar["pid"] == sidecar["network_mode"] == "service:opencode"
    assert sidecar["user"] == server["user"]
    assert sidecar["volumes"][0].rpartition(":")[0] == server["volumes"][0].rpartition(":")[0]
    assert sidecar["healthcheck"]["test"] == ["CMD", "opencode-watchdog", "check", "--alive"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    settings = settings_of(sidecar["environment"])
    assert str(settings.database) == f"{sidecar['volumes'][0].rpartition(':')[2]}/opencode.db"
    assert settings.sole_owner is True
    assert settings.servers == ("http://127.0.0.1:4096",)
    assert (FOLDER / sidecar["build"]).resolve() == PROJECT


# --- Kubernetes


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, "latest"])
def test_the_manifest_fits_the_schemas_of_kubernetes(version: str) -> None:
    known = kubernetes_validate.latest_version() if version == "latest" else version
    for document in documents("kubernetes.yaml"):
        kubernetes_validate.validate(document, known, strict=True)


def test_a_mistake_in_the_manifest_would_be_seen() -> None:
    broken = manifest("StatefulSet")
    broken["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, OLDEST_KUBERNETES, strict=True)


def test_in_kubernetes_the_watchdog_is_a_native_sidecar_that_shares_processes_and_data() -> None:
    spec = pod()
    (sidecar,), (server,) = spec["initContainers"], spec["containers"]
    assert spec["shareProcessNamespace"] is True
    assert sidecar["restartPolicy"] == "Always"
    assert "runAsUser" not in sidecar["securityContext"], "both run as the pod's user"
    (data,) = [each for each in sidecar["volumeMounts"] if each["mountPath"] == "/data"]
    assert (data["name"], data["subPath"]) == (
        server["volumeMounts"][0]["name"],
        server["volumeMounts"][0]["subPath"],
    )
    assert sidecar["startupProbe"]["httpGet"] == sidecar["livenessProbe"]["httpGet"]
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert "readinessProbe" not in sidecar, "a watchdog that can't act is no reason to send nobody to the server"
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    (tmp,) = [each["name"] for each in sidecar["volumeMounts"] if each["mountPath"] == "/tmp"]  # noqa: S108
    (volume,) = spec["volumes"]
    assert volume["name"] == tmp
    assert "emptyDir" in volume
    settings = settings_of(environ_of(sidecar))
    assert settings.sole_owner is True
    assert settings.shutdown_grace < timedelta(seconds=spec["terminationGracePeriodSeconds"])


@asynccontextmanager
async def waiting(program: Program, database: Path) -> AsyncIterator[tuple[Started, Callable[[str], Awaitable[int]]]]:
    """The sidecar of the manifest before there is a database; and what its address answers for a path."""
    (sidecar,) = pod()["initContainers"]
    address = f"127.0.0.1:{free_port()}"
    program.settings(servers=[NOWHERE], discover=False, log_level="debug", log_format="json")
    program.more |= environ_of(sidecar) | {
        "OPENCODE_WATCHDOG_DATABASE": str(database),
        "OPENCODE_WATCHDOG_SERVERS": NOWHERE,
        "OPENCODE_WATCHDOG_CONTROL": address,
    }
    async with (
        program.started(*sidecar["args"]) as running,
        httpx.AsyncClient(base_url=f"http://{address}", headers=KUBELET, timeout=SECONDS) as client,
    ):

        async def status(path: str) -> int:
            try:
                return (await client.get(path)).status_code
            except httpx.TransportError:
                return 0

        await running.said("watch.waiting")
        await wait_until(lambda: status("/healthz"), "an answer", explain=running.stderr)
        yield running, status


async def test_the_sidecar_is_alive_while_it_waits_for_the_database_that_its_server_makes(
    program: Program, tmp_path: Path
) -> None:
    database = tmp_path / "opencode.db"
    async with waiting(program, database) as (running, status):
        assert [await status(path) for path in ("/healthz", "/readyz", "/api/sessions")] == [200, 503, 503]
        database.touch()  # as the server does before it fills it
        await asyncio.sleep(1.2)
        assert running.process.poll() is None
        database.unlink()
        with OpencodeFile(database):
            await running.said("watch.looked")
            assert await status("/healthz") == httpx.codes.OK
            running.process.terminate()
            assert (await running.finished()).code == 0


async def test_a_sidecar_that_waits_ends_when_it_is_told_to(program: Program, tmp_path: Path) -> None:
    async with waiting(program, tmp_path / "opencode.db") as (running, _):
        running.process.terminate()
        assert (await running.finished()).code == 0


async def test_without_being_told_to_wait_a_missing_database_is_an_error(program: Program, tmp_path: Path) -> None:
    program.settings(servers=[NOWHERE], discover=False, database=str(tmp_path / "opencode.db"))
    assert (await program.run("run")).code == 3


async def test_the_probes_get_their_answer_by_the_address_of_the_pod_without_a_token(
    program: Program, rows: OpencodeFile
) -> None:
    (sidecar,) = pod()["initContainers"]
    address = f"127.0.0.1:{free_port()}"
    program.settings(database=str(rows.path), discover=False)
    program.more |= environ_of(sidecar) | {
        "OPENCODE_WATCHDOG_DATABASE": str(rows.path),
        "OPENCODE_WATCHDOG_SERVERS": NOWHERE,
        "OPENCODE_WATCHDOG_CONTROL": address,
    }
    async with (
        program.started("run") as running,
        httpx.AsyncClient(base_url=f"http://{address}", headers=KUBELET, timeout=SECONDS) as client,
    ):
        await running.said("control.listening")

        async def status(path: str) -> int:
            return (await client.get(path)).status_code

        async def alive() -> bool:
            return await status(sidecar["livenessProbe"]["httpGet"]["path"]) == httpx.codes.OK

        await wait_until(alive, "life", explain=running.stderr)
        assert await status("/readyz") == httpx.codes.SERVICE_UNAVAILABLE, "its server is not there"
        assert (await client.get("/metrics")).status_code == httpx.codes.UNAUTHORIZED
        token = {"Authorization": f"Bearer {program.more['OPENCODE_WATCHDOG_CONTROL_TOKEN']}"}
        assert (await client.get("/metrics", headers=token)).status_code == httpx.codes.OK


# --- the image


def test_the_image_holds_what_the_files_rely_on() -> None:
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    assert 'CMD ["opencode-watchdog", "check", "--alive"]' in text
    assert "ENV XDG_STATE_HOME=/state" in text
    assert "OPENCODE_WATCHDOG_DATABASE=/data/opencode.db" in text
    assert "-r requirements.lock" in text
    locked = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    for package in ("apprise", "fastapi", "prometheus-client", "uvicorn"):
        assert f"\n{package}==" in locked, package


async def test_what_the_health_check_runs_tells_a_watchdog_that_looks_from_none(
    program: Program, rows: OpencodeFile
) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], discover=False, log_level="debug")
    assert (await program.run("check", "--alive")).code == 3
    async with program.started("run") as running:
        await running.said("watch.looked")

        def alive() -> bool:
            line = [*program.line, "check", "--alive"]
            return not subprocess.run(line, cwd=program.home, env=program.environ, check=False).returncode

        await wait_until(lambda: asyncio.to_thread(alive), "health", explain=running.stderr)
