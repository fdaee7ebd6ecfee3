#!/usr/bin/env python3
"""An OCI image of what a tarball has, without a daemon: build.py TREE VERSION ARCH OUT.

One layer: the static binary, the certificate authorities, and an unprivileged user.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile
import time

USER = 65532
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
CREATED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def layer(tree):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made = set()

        def add(path, content=None, mode=0o755, owner=0):
            parent = str(pathlib.PurePosixPath(path).parent)
            if parent not in (".", "") and parent not in made:
                add(parent)
            made.add(path)
            info = tarfile.TarInfo(path)
            info.mtime, info.mode, info.uid, info.gid = EPOCH, mode, owner, owner
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

        add("usr/bin/antiphon", (tree / "antiphon").read_bytes())
        add(CERTIFICATES.lstrip("/"), pathlib.Path(CERTIFICATES).read_bytes(), 0o644)
        add("etc/passwd", f"antiphon:x:{USER}:{USER}::/var/lib/antiphon:/sbin/nologin\n".encode(), 0o644)
        add("etc/group", f"antiphon:x:{USER}:\n".encode(), 0o644)
        for name in ["LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY-LICENSES.txt"]:
            add(f"usr/share/doc/antiphon/{name}", (tree / name).read_bytes(), 0o644)
        add("etc/antiphon")
        add("var/lib/antiphon", mode=0o700, owner=USER)
        add("tmp", mode=0o1777)
    return packed.getvalue()


def main():
    tree, version, arch, out = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def put_json(value, media_type):
        return put(json.dumps(value, sort_keys=True).encode(), media_type)

    plain = layer(tree)
    packed = put(gzip.compress(plain, 9, mtime=EPOCH), "application/vnd.oci.image.layer.v1.tar+gzip")
    labels = {
        "org.opencontainers.image.title": "Antiphon",
        "org.opencontainers.image.description": "A gateway for the OpenAI Responses API that remembers.",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        "org.opencontainers.image.created": CREATED,
    }
    config = put_json(
        {
            "created": CREATED,
            "architecture": arch,
            "os": "linux",
            "config": {
                "User": f"{USER}:{USER}",
                "Entrypoint": ["/usr/bin/antiphon"],
                "Cmd": ["serve"],
                "Env": ["ANTIPHON_LISTEN=0.0.0.0:8080", "ANTIPHON_STORE__URL=sqlite:///var/lib/antiphon/antiphon.db"],
                "ExposedPorts": {"8080/tcp": {}},
                "Volumes": {"/var/lib/antiphon": {}},
                "WorkingDir": "/etc/antiphon",
                "StopSignal": "SIGTERM",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
            "history": [{"created": CREATED, "created_by": "packaging/oci/build.py"}],
        },
        "application/vnd.oci.image.config.v1+json",
    )
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = put_json(
        {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [packed], "annotations": labels},
        manifest_type,
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": version}
    manifest["platform"] = {"architecture": arch, "os": "linux"}
    (out / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}, sort_keys=True))
    (out / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


if __name__ == "__main__":
    main()
