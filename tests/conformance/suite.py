"""The list of cases, and how they are run."""

import dataclasses
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CASES = []


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    group: str
    summary: str
    run: Callable


@dataclasses.dataclass(frozen=True)
class Result:
    name: str
    group: str
    summary: str
    passed: bool
    reason: str
    duration_ms: int


def case(name, group):
    """Adds a function to the cases. Its docstring says what it checks."""

    def register(function):
        CASES.append(Case(name, group, function.__doc__.strip(), function))
        return function

    return register


def run_all(api, groups, names, parallel):
    chosen = [case for case in CASES if case.group in groups and (not names or case.name in names)]
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return list(pool.map(lambda case: run_one(api, case), chosen))


def run_one(api, case):
    began = time.monotonic()
    try:
        case.run(api)
        reason = ""
    except AssertionError as failed:
        reason = str(failed) or traceback.format_exc(limit=-1)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    duration_ms = round((time.monotonic() - began) * 1000)
    return Result(case.name, case.group, case.summary, not reason, reason, duration_ms)
