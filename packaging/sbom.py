#!/usr/bin/env python3
"""Adds the C library that is linked into the binary to the bill of materials that cargo-cyclonedx has written: sbom.py VERSION."""

import json
import sys

bill = json.load(sys.stdin)
version = sys.argv[1]
bill["components"].append(
    {
        "type": "library",
        "bom-ref": f"pkg:deb/debian/glibc@{version}",
        "purl": f"pkg:deb/debian/glibc@{version}",
        "name": "glibc",
        "version": version,
        "licenses": [{"license": {"id": "LGPL-2.1-or-later"}}],
    }
)
json.dump(bill, sys.stdout, indent=2)
