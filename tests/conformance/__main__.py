"""Checks a Responses API for conformance: `python3 tests/conformance --base-url http://127.0.0.1:8080/v1 --model sim`."""

import argparse
import dataclasses
import json
import os
import sys

import background  # noqa: F401
import chains  # noqa: F401
import conversations  # noqa: F401
import errors  # noqa: F401
import open_responses  # noqa: F401
import sockets  # noqa: F401
from api import Api
from suite import CASES, run_all

DEFAULT_GROUPS = ("open-responses", "chains", "errors", "sockets")
EXTRA_GROUPS = ("background", "conversations")
ALL_GROUPS = (*DEFAULT_GROUPS, *EXTRA_GROUPS)

def groups(text):
    chosen = [name for name in text.split(",") if name]
    unknown = set(chosen) - set(EXTRA_GROUPS)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown groups: {', '.join(sorted(unknown))}")
    return chosen

def positive(kind):
    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    return parse

def arguments():
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--base-url", required=True, help="of the API, with /v1")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", ""), help="default: $OPENAI_API_KEY")
    parser.add_argument("--model", required=True, help="the model that all requests name")
    parser.add_argument("--with", dest="extra", type=groups, default=[], help="more groups: background,conversations")
    parser.add_argument("--case", action="append", default=[], help="run only this case; can be repeated")
    parser.add_argument("--parallel", type=positive(int), default=4, help="cases at the same time (4)")
    parser.add_argument("--timeout", type=positive(float), default=60, help="seconds for each request (60)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    unknown = set(options.case) - {case.name for case in CASES}
    if unknown:
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    return options

def table(results):
    width = max(len(result.name) for result in results)
    lines = []
    for result in results:
        mark = "ok  " if result.passed else "FAIL"
        lines.append(f"{mark}  {result.name:<{width}}  {result.duration_ms:>6} ms  {result.summary}")
        if not result.passed:
            lines.append(f"      {result.reason}")
    passed = sum(result.passed for result in results)
    return "\n".join([*lines, "", f"{passed} of {len(results)} cases passed"])

def main():
    options = arguments()
    api = Api(options.base_url, options.api_key, options.model, options.timeout)
    chosen = ALL_GROUPS if options.case else (*DEFAULT_GROUPS, *options.extra)
    results = run_all(api, chosen, options.case, options.parallel)
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
    else:
        print(table(results))
    return 0 if all(result.passed for result in results) else 1

if __name__ == "__main__":
    sys.exit(main())
