"""`gke_jobset.yaml` against the schema of JobSet, and its exit codes against those of `once.sh`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from launchers import LAUNCH


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def unknown(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Paths of `ours` that the schema has no place for, or reads as something else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from unknown(value, theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for i, value in enumerate(ours):
            yield from unknown(value, theirs[i], f"{path}.{i}")
    elif ours != theirs:
        yield path


def checked(values: dict[str, Any]) -> list[str]:
    """Raises ValueError where a required field is missing or a value has the wrong type."""
    parsed = JobsetV1alpha2JobSet.from_dict(copy.deepcopy(values))
    assert parsed is not None
    return list(unknown(values, parsed.to_dict()))


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return values["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_it_is_a_jobset(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert checked(jobset) == []


def test_the_schema_finds_what_is_misspelt_or_of_the_wrong_type(jobset):
    misspelt = copy.deepcopy(jobset)
    pod(misspelt)["terminationGracePeriod"] = pod(misspelt).pop("terminationGracePeriodSeconds")
    assert checked(misspelt) == [".spec.replicatedJobs.0.template.spec.template.spec.terminationGracePeriod"]
    wrong = copy.deepcopy(jobset)
    wrong["spec"]["failurePolicy"]["maxRestarts"] = "many"
    with pytest.raises(ValueError, match="maxRestarts"):
        checked(wrong)


def test_a_preempted_pod_restarts_all_and_a_mistake_ends_the_jobset(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == pod(jobset)["containers"][0]["name"]
    assert job["backoffLimit"] == 0  # a single pod cannot come back alone
    assert pod(jobset)["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    assert pod(jobset)["containers"][0]["command"] == ["launch/once.sh"]


def test_what_is_compiled_lies_on_the_volume(jobset):
    (container,) = pod(jobset)["containers"]
    (volume,) = container["volumeMounts"]
    (cache,) = [entry["value"] for entry in container["env"] if entry["name"] == "JAX_COMPILATION_CACHE_DIR"]
    assert cache.startswith(f"{volume['mountPath']}/")


def test_its_chips_are_those_of_the_topology(jobset):
    job, chips = jobset["spec"]["replicatedJobs"][0]["template"]["spec"], 1
    for side in pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    a_node = pod(jobset)["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == chips / a_node
    assert job["completionMode"] == "Indexed"
