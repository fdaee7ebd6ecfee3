#!/usr/bin/env python3
"""Imports run down only: which part of a crate may import which other part of it.

A crate is a list of layers from the top down. A layer is a list of parts, paths below `src`, that do not import each
other. A part may import the layers below its own, and nothing else of its crate. A file belongs to the longest path
that matches it.
"""

import pathlib
import re
import subprocess
import sys

LAYERS = {
    "gateway": [
        ["lib"],
        ["app"],
        ["http"],
        ["http/server"],
        ["http/api", "http/dashboard", "http/operator", "http/socket"],
        ["http/auth", "http/body", "http/fallback", "http/json_reply", "http/parsing", "http/path_segment", "http/query", "http/stall", "http/streams"],
        ["http/error_reply", "http/pace"],
        ["http/app_state"],
        ["http/origin", "http/readiness"],
        ["http/error"],
        ["http/socket/metrics", "http/socket/settings", "jobs", "metrics"],
        ["turn", "reload"],
        ["conversations"],
        ["memory", "telemetry", "tls"],
        ["body_memory", "decompression"],
    ],
    "upstream": [
        ["lib"],
        ["pool"],
        ["transport"],
        ["account"],
        ["credential"],
        ["client"],
        ["metrics", "settings"],
        ["route"],
        ["dialect"],
    ],
    "access": [
        ["lib"],
        ["admin", "keys", "sessions", "sign_ins", "usage"],
        ["audit", "limits", "prices"],
        ["object", "pattern", "query", "role", "session_id"],
    ],
}

# `use` of a path in this crate, or such a path inside of an expression.
PATHS = re.compile(r"\b(?:crate|super|self)(?:::\w+)*(?:::\{)?")


def without_comments_and_tests(text):
    text = re.sub(r"//[^\n]*|pub\([^)]*\)", "", text)
    return text.split("#[cfg(test)]\nmod tests {")[0]


def brace(text, start):
    """The text between a brace that opens just before `start` and the one that closes it."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]


def imported(text, module):
    """The paths, from the crate's root, that a file names; `module` is its own."""
    for match in PATHS.finditer(text):
        path = match[0]
        names = [path.rstrip(":")]
        if path.endswith("::{"):
            items = re.sub(r"\{[^{}]*\}", "", brace(text, match.end()))
            prefix = path[: -len("::{")]
            names = [f"{prefix}::{item.strip().split('::')[0]}" for item in items.split(",") if item.strip()]
        for name in names:
            parts = name.split("::")
            base = [] if parts[0] == "crate" else list(module)
            while parts and parts[0] in ("crate", "self", "super"):
                if parts[0] == "super":
                    base = base[:-1]
                parts = parts[1:]
            yield base + parts


def part_of(parts, layers):
    """The longest path of the table that begins this one, and its layer."""
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        for number, layer in enumerate(layers):
            if name in layer:
                return name, number
    return None, None


def check(crate, layers):
    root = pathlib.Path("crates") / crate / "src"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"{root}/*.rs"],
        check=True, capture_output=True, text=True,
    ).stdout.split()
    for name in map(pathlib.Path, listed):
        if not name.exists() or "tests" in name.with_suffix("").parts:
            continue
        module = list(name.relative_to(root).with_suffix("").parts)
        own, own_layer = part_of(module, layers)
        if own is None:
            yield f"{name}: is in no layer of scripts/imports.py"
            continue
        if module[-1] == "mod":
            module = module[:-1]
        if own in ("lib", "main"):
            continue
        for path in imported(without_comments_and_tests(name.read_text()), module):
            part, layer = part_of(path, layers)
            is_child = part is not None and part.startswith(f"{own}/") and path[: len(module)] == module
            if part not in (None, own) and layer <= own_layer and not is_child:
                yield f"{name}: imports {'::'.join(path)}: {own} may not import {part}"


def main():
    problems = sorted({problem for crate, layers in LAYERS.items() for problem in check(crate, layers)})
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


sys.exit(main())
