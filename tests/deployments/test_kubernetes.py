"""`kubernetes/`: valid by Kubernetes' own schemas, locked down, and without a password."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.utilities.templating import apply_values

import prefect_optuna.deployments
from prefect_optuna.deployments.lab import make_kubernetes_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(prefect_optuna.deployments.__file__).parent / "kubernetes"
WORK_POOL = json.loads((FOLDER / "work-pool.json").read_text())
VALUES = yaml.safe_load((FOLDER / "server-values.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
VERSION = kubernetes_validate.latest_version()


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """What `kubectl apply -k` applies, and the job that a worker makes of the pool's template."""
    found = [
        (f"{name}/{document['kind']}/{document['metadata']['name']}", document)
        for name in KUSTOMIZATION["resources"]
        for document in yaml.safe_load_all((FOLDER / name).read_text())
    ]
    return [*found, ("work-pool/Job", job())]


def job() -> dict[str, Any]:
    """The job of the work pool, with its defaults."""
    variables = WORK_POOL["variables"]["properties"]
    values = {name: one["default"] for name, one in variables.items() if "default" in one}
    filled = apply_values(WORK_POOL["job_configuration"], values)["job_manifest"]
    container = filled["spec"]["template"]["spec"]["containers"][0]
    # As Prefect's worker puts them in.
    container["env"] = [{"name": key, "value": value} for key, value in container["env"].items()]
    container["args"] = ["prefect", "flow-run", "execute"]
    # prefect-kubernetes takes no job without them, in a place where Kubernetes ignores them.
    for name in ("parallelism", "completions"):
        assert filled["spec"]["template"]["spec"].pop(name) == 1
    return filled


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, manifest in manifests():
        if template := manifest.get("spec", {}).get("template"):
            yield name, template


@pytest.mark.parametrize(("name", "manifest"), manifests(), ids=[n for n, _ in manifests()])
def test_it_is_valid_by_the_schema_of_its_kind(name: str, manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    broken = copy.deepcopy(manifest)
    broken["specification"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_every_file_is_applied_or_says_by_whom() -> None:
    others = {"kustomization.yaml", "server-values.yaml", "work-pool.json"}
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {
        *KUSTOMIZATION["resources"],
        *others,
    }


def test_no_password_is_in_any_file() -> None:
    for path in filter(Path.is_file, FOLDER.iterdir()):
        text = path.read_text()
        assert "kind: Secret\n" not in text
        assert not re.search(r"://[^/\s]*:[^/\s]*@", text)
        assert "stringData" not in text
    sources = [file for secret in KUSTOMIZATION["secretGenerator"] for file in secret["files"]]
    assert all("=secrets/" in source for source in sources)


def test_every_secret_and_config_that_is_used_is_made() -> None:
    made = {s["name"] for s in KUSTOMIZATION["secretGenerator"]}
    made |= {s["name"] for s in KUSTOMIZATION["configMapGenerator"]}
    used = {VALUES["secret"]["name"]}
    for name, pod in pods():
        for volume in pod["spec"].get("volumes", []):
            used |= {volume.get("secret", {}).get("secretName")} - {None}
            used |= {volume.get("configMap", {}).get("name")} - {None}
        assert name
    used |= {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in (*VALUES["server"]["env"], *VALUES["backgroundServices"]["env"])
        if "valueFrom" in entry
    }
    assert used == made


def test_no_pod_is_root_and_only_prefect_s_worker_may_ask_kubernetes_for_anything() -> None:
    for name, pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
        if spec.get("serviceAccountName") != "prefect-worker":
            assert spec["automountServiceAccountToken"] is False, name


def test_whoever_is_let_in_is_somebody_and_all_others_are_not() -> None:
    policies = {m["metadata"]["name"]: m for _, m in manifests() if m["kind"] == "NetworkPolicy"}
    everything = policies["nothing-comes-in"]["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress"]}
    labels = {pod["metadata"]["labels"]["app"] for _, pod in pods()}
    for name in ("redis-studies", "redis-messaging"):
        (rule,) = policies[name]["spec"]["ingress"]
        assert rule["ports"] == [{"port": 6379}]
        for peer in rule["from"]:
            chosen = peer["podSelector"]["matchLabels"]
            assert chosen.get("app", "redis-studies") in labels, name


def test_services_select_pods_that_are_there() -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods()]
    for name, manifest in manifests():
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels, name


@pytest.mark.usefixtures("prefect_server")
def test_a_server_takes_the_work_pool_and_checks_what_is_asked_of_its_jobs() -> None:
    assert make_kubernetes_pool("tests-k8s", WORK_POOL)
    changed = copy.deepcopy(WORK_POOL)
    changed["variables"]["properties"]["cpu"]["default"] = "4"
    assert not make_kubernetes_pool("tests-k8s", changed)
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool("tests-k8s")
    assert pool.type == "kubernetes"
    assert pool.base_job_template == changed
