"""The list of cases, and how they are run."""

import dataclasses
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CASES = []
# A case may take as long as so many requests that just do not time out.
REQUESTS_IN_TIME = 5


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
        return list(pool.map(lambda case: run_in_time(api, case), chosen))


def run_in_time(api, case):
    """Runs a case, but no longer than some requests may take: a stream that never ends has no request that times out."""
    limit = api.timeout * REQUESTS_IN_TIME
    results = []
    # The program does not wait for the thread of a case that has been given up.
    running = threading.Thread(target=lambda: results.append(run_one(api, case)), daemon=True)
    running.start()
    running.join(limit)
    if results:
        return results[0]
    reason = f"it did not end within {limit:g} s"
    return Result(case.name, case.group, case.summary, False, reason, round(limit * 1000))


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
