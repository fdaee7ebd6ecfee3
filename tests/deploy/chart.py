"""Renders a chart with Helm, which gets a cluster that reads the release and then refuses it."""

import asyncio
import base64
import gzip
import http.server
import json
import re
import threading

import helm_sdkpy
import yaml

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: none, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
contexts: [{{name: none, context: {{cluster: none, user: none}}}}]
users: [{{name: none, user: {{}}}}]
current-context: none
"""
KINDS = {
    "v1": ["ConfigMap", "Secret", "Service"],
    "apps/v1": ["Deployment"],
    "batch/v1": ["Job"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["Ingress"],
    "monitoring.coreos.com/v1": ["ServiceMonitor"],
}


def resources(version):
    plural = {kind: kind.lower() + ("es" if kind == "Ingress" else "s") for kind in KINDS[version]}
    found = [
        {"name": plural[kind], "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["create", "get", "list"]}
        for kind in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def groups():
    found = []
    for version in KINDS:
        if "/" in version:
            named = {"groupVersion": version, "version": version.split("/")[1]}
            found.append({"name": version.split("/")[0], "versions": [named], "preferredVersion": named})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


class Cluster(http.server.BaseHTTPRequestHandler):
    """Knows its kinds, has no objects, and creates none."""

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, reason):
        answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status, "message": reason}
        self.answer(answer, status)

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        version = path.removeprefix("apis/").removeprefix("api/")
        if path == "version":
            self.answer({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        elif path == "api":
            self.answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            self.answer(groups())
        elif version in KINDS:
            self.answer(resources(version))
        elif path.endswith("/secrets"):
            self.answer({"kind": "SecretList", "apiVersion": "v1", "items": []})
        else:
            self.refuse(404, "NotFound")

    def do_POST(self):
        # In the protobuf form of a Secret.
        sent = self.rfile.read(int(self.headers["content-length"]))
        if packed := re.search(rb"H4sI[A-Za-z0-9+/=]+", sent):
            self.server.release = json.loads(gzip.decompress(base64.b64decode(packed[0])))
        self.refuse(403, "Forbidden")

    def log_message(self, *_):
        pass


def lint(path):
    """What Helm has to say against a chart."""
    said = asyncio.run(helm_sdkpy.Lint(helm_sdkpy.Configuration()).run(str(path)))
    return (said["Errors"] or []) + [m for m in said["Messages"] or [] if m["Severity"] > 1]


def render(path, values):
    """The objects that Helm would create, those of hooks included. Values that the schema refuses are an error."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    server.release = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        config = helm_sdkpy.Configuration("antiphon", KUBECONFIG.format(port=server.server_port))
        asyncio.run(helm_sdkpy.Install(config).run("try", str(path), values, wait=False, timeout=10))
    except helm_sdkpy.InstallError:
        if server.release is None:
            raise
    finally:
        server.shutdown()
    texts = [server.release["manifest"]] + [hook["manifest"] for hook in server.release.get("hooks") or []]
    return [found for text in texts for found in yaml.safe_load_all(text) if found], server.release["info"].get("notes", "")
