#!/usr/bin/env python3
"""House rules that no linter knows: sizes of files, and things that belong in one place."""

import pathlib
import re
import subprocess
import sys

MAX_LINES = {"src": 500, "tests": 600}
ONLY_IN = [
    # (pattern, files it may stand in, files it is looked for in)
    (r"\benv::var", r"config/src/environment\.rs$", r"^crates/(cli|config|gateway|operations)/src/"),
    (r"\btokio::spawn\b", r"cli/src/signals\.rs$|/tests(/|\.rs$)", r"^crates/(cli|gateway|operations|access|upstream|runtime)/src/"),
    (r"\banyhow\b", r"^crates/(cli|testkit)/", r"^crates/.*/src/"),
    (r"\bfn test_", r"$^", r"^crates/"),
    (r"TcpListener::bind", r"cli/|/tests/|^crates/(chaos|testkit|simulator)", r"^crates/.*/src/"),
]


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"],
        check=True, capture_output=True, text=True,
    ).stdout.split()
    problems = []
    for name in listed:
        path = pathlib.Path(name)
        if not path.exists():
            continue
        text = path.read_text()
        lines = text.count("\n")
        kind = "tests" if "/tests/" in name or name.endswith("/tests.rs") else "src"
        if lines > MAX_LINES[kind]:
            problems.append(f"{name}: {lines} lines; a file is one idea of at most {MAX_LINES[kind]}")
        if path.name in ("lib.rs", "mod.rs", "main.rs") and not text.startswith(("//!", "#!")):
            problems.append(f"{name}: begins without a //! line that says what it is")
        for pattern, allowed, looked_for in ONLY_IN:
            if re.search(looked_for, name) and not re.search(allowed, name):
                for number, line in enumerate(text.splitlines(), 1):
                    if re.search(pattern, line) and not line.lstrip().startswith("//"):
                        problems.append(f"{name}:{number}: '{pattern}' belongs elsewhere")
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


sys.exit(main())
