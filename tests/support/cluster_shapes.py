"""What may stand in the files of `cluster/`, where Ray's own validation looks away; unknown keys are refused.

The names are those of EC2 RunInstances, Compute Engine's Instance, Kubernetes 1.30 and KubeRay 1.7. Only what
our files use is here; a key that is new to them is added when it has been looked up.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def one(required: dict[str, Schema] | None = None, **optional: Schema) -> Schema:
    """An object of these keys and no others."""
    required = required or {}
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


# Providers of `ray up`

PROVIDERS = {
    "aws": one({"type": TEXT, "region": TEXT}, availability_zone=TEXT, cache_stopped_nodes=BOOLEAN),
    "azure": one(
        {"type": TEXT, "location": TEXT, "resource_group": TEXT, "subscription_id": TEXT},
        availability_zone=TEXT,
    ),
    "gcp": one({"type": TEXT, "region": TEXT, "availability_zone": TEXT, "project_id": TEXT}),
    "local": one({"type": TEXT, "head_ip": TEXT, "worker_ips": TEXTS}),
}

_EBS = one({"VolumeSize": NUMBER, "VolumeType": {"enum": ["gp3"]}}, Throughput={"maximum": 1000} | NUMBER)
_AWS_NODE = one(
    {
        "InstanceType": TEXT,
        "BlockDeviceMappings": many(one({"DeviceName": TEXT, "Ebs": _EBS})),
        "MetadataOptions": one({"HttpTokens": {"enum": ["required"]}}),
    }
)
_GCP_DISK = one(
    {
        "boot": BOOLEAN,
        "autoDelete": BOOLEAN,
        "type": {"enum": ["PERSISTENT"]},
        "initializeParams": one({"diskSizeGb": NUMBER, "sourceImage": TEXT}),
    }
)
_GCP_NODE = one(
    {"machineType": TEXT, "disks": many(_GCP_DISK)},
    scheduling=one({"onHostMaintenance": {"enum": ["TERMINATE", "MIGRATE"]}}),
)


def azure_node(parameters: dict[str, Any]) -> Schema:
    """A node of Azure: the parameters of Ray's own template, by its file."""
    kinds = {"string": TEXT, "int": NUMBER, "bool": BOOLEAN}
    known = {name: kinds.get(given["type"].lower(), {}) for name, given in parameters.items()}
    return one({"azure_arm_parameters": one({"vmSize": TEXT, "osDiskSize": NUMBER}, **known)})


NODES = {"aws": _AWS_NODE, "gcp": _GCP_NODE}


# Kubernetes

_META = one({"name": TEXT}, labels=LABELS)
_SELECTOR = one(
    matchLabels=LABELS,
    matchExpressions=many(one({"key": TEXT, "operator": {"enum": ["Exists", "In"]}}, values=TEXTS)),
)
_AMOUNTS: Schema = {"type": "object", "additionalProperties": TEXT, "required": ["cpu", "memory"]}
_RESOURCES = one({"requests": _AMOUNTS, "limits": _AMOUNTS})
_SECRET_KEY = one({"secretKeyRef": one({"name": TEXT, "key": TEXT})})
_VARIABLE = one({"name": TEXT}, value=TEXT, valueFrom=_SECRET_KEY)
_PROBE = one(
    {"exec": one({"command": TEXTS})}, periodSeconds=NUMBER, timeoutSeconds=NUMBER, failureThreshold=NUMBER
)
_CAPABILITIES = one({"drop": {"const": ["ALL"]}}, add={"const": ["CHOWN"]})
_CONTAINER_SECURITY = one(
    {"allowPrivilegeEscalation": {"const": False}, "capabilities": _CAPABILITIES},
    runAsUser=NUMBER,
    runAsNonRoot=BOOLEAN,
    readOnlyRootFilesystem=BOOLEAN,
)
_CONTAINER = one(
    {"name": TEXT, "image": TEXT, "resources": _RESOURCES, "securityContext": _CONTAINER_SECURITY},
    command=TEXTS,
    env=many(_VARIABLE),
    ports=many(one({"name": {"maxLength": 15} | TEXT, "containerPort": NUMBER})),
    startupProbe=_PROBE,
    readinessProbe=_PROBE,
    volumeMounts=many(one({"name": TEXT, "mountPath": TEXT}, readOnly=BOOLEAN)),
)
_VOLUME = one(
    {"name": TEXT},
    secret=one({"secretName": TEXT}, defaultMode=NUMBER),
    emptyDir=one(medium={"enum": ["Memory"]}, sizeLimit=TEXT),
    hostPath=one({"path": TEXT, "type": {"enum": ["DirectoryOrCreate"]}}),
) | {"minProperties": 2, "maxProperties": 2}
_POD_SECURITY = one(
    {"runAsUser": NUMBER, "runAsNonRoot": {"const": True}, "seccompProfile": one({"type": TEXT})},
    fsGroup=NUMBER,
)
_APART = many(one({"topologyKey": TEXT, "labelSelector": _SELECTOR}))
_POD_SPEC = one(
    {"containers": many(_CONTAINER), "securityContext": _POD_SECURITY},
    initContainers=many(_CONTAINER),
    volumes=many(_VOLUME),
    automountServiceAccountToken=BOOLEAN,
    terminationGracePeriodSeconds=NUMBER,
    affinity=one({"podAntiAffinity": one({"requiredDuringSchedulingIgnoredDuringExecution": _APART})}),
    tolerations=many(one({"key": TEXT, "operator": TEXT, "effect": TEXT})),
)
_POD = one({"metadata": one({"labels": LABELS}), "spec": _POD_SPEC})

_RAY_CLUSTER = one(
    {
        "rayVersion": TEXT,
        "authOptions": one({"mode": {"const": "token"}}),
        "gcsFaultToleranceOptions": one(
            {"redisAddress": TEXT, "redisPassword": one({"valueFrom": _SECRET_KEY})}
        ),
        "headGroupSpec": one({"rayStartParams": LABELS, "template": _POD}),
        "workerGroupSpecs": many(
            one(
                {
                    "groupName": TEXT,
                    "replicas": NUMBER,
                    "minReplicas": NUMBER,
                    "maxReplicas": NUMBER,
                    "rayStartParams": LABELS,
                    "template": _POD,
                }
            )
        ),
    },
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=one(idleTimeoutSeconds=NUMBER, resources=_RESOURCES),
)
_RAY_SERVICE = one(
    {"serveConfigV2": TEXT, "rayClusterConfig": _RAY_CLUSTER},
    upgradeStrategy=one({"type": {"enum": ["NewCluster", "None"]}}),
    rayClusterDeletionDelaySeconds=NUMBER,
)
_SERVICE = one(
    {"selector": LABELS, "ports": many(one({"name": TEXT, "port": NUMBER}, targetPort={}, protocol=TEXT))}
)
_STATEFUL_SET = one(
    {"serviceName": TEXT, "replicas": NUMBER, "selector": _SELECTOR, "template": _POD},
    volumeClaimTemplates=many(
        one(
            {
                "metadata": one({"name": TEXT}),
                "spec": one(
                    {"accessModes": TEXTS, "resources": one({"requests": one({"storage": TEXT})})},
                ),
            }
        )
    ),
)
_PEER = one(podSelector=_SELECTOR, namespaceSelector=_SELECTOR)
_NETWORK_POLICY = one(
    {
        "podSelector": _SELECTOR,
        "policyTypes": {"const": ["Ingress"]},
        "ingress": many(one({"from": many(_PEER)}, ports=many(one({"protocol": TEXT, "port": NUMBER})))),
    }
)
_DISRUPTION_BUDGET = one({"maxUnavailable": NUMBER, "selector": _SELECTOR})


def _kind(api_version: str, spec: Schema) -> Schema:
    return one({"apiVersion": {"const": api_version}, "kind": TEXT, "metadata": _META, "spec": spec})


KINDS = {
    "RayService": _kind("ray.io/v1", _RAY_SERVICE),
    "Service": _kind("v1", _SERVICE),
    "StatefulSet": _kind("apps/v1", _STATEFUL_SET),
    "NetworkPolicy": _kind("networking.k8s.io/v1", _NETWORK_POLICY),
    "PodDisruptionBudget": _kind("policy/v1", _DISRUPTION_BUDGET),
}
