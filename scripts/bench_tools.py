"""What the parts of the benchmark share: starting processes, sending load, and reading the CPU time of a process."""

import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import time

RELEASE = pathlib.Path("target/release")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SECONDS = os.environ.get("BENCH_SECONDS", "4")
FOR_SECONDS = ("--duration", f"{SECONDS}s")
WARMUP = 200


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def load(port, mode, concurrency, store, *extra):
    command = [
        RELEASE / "antiphon-load", "--url", f"http://127.0.0.1:{port}/v1", "--mode", mode,
        "--concurrency", str(concurrency), "--warmup", str(WARMUP), "--store", store, "--json", *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{mode} at {concurrency}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def measured(process, *arguments):
    """The report of a load, and the CPU seconds that the process took meanwhile."""
    before = cpu_seconds(process.pid)
    report = load(*arguments)
    return report, cpu_seconds(process.pid) - before


def start(arguments, port, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTIPHON_"))}
    process = subprocess.Popen(
        arguments, env={**clean, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(port)
    return process


def stop(process):
    process.terminate()
    process.wait()


def start_upstream(*arguments):
    port = free_port()
    command = [RELEASE / "antiphon-simulator", "--bench", "--listen", f"127.0.0.1:{port}", *arguments]
    return port, start(command, port)


def start_gateway(folder, store_url, accounts):
    port = free_port()
    return port, start(
        [RELEASE / "antiphon", "serve"], port, HOME=folder, ANTIPHON_LISTEN=f"127.0.0.1:{port}",
        ANTIPHON_STORE__URL=store_url, ANTIPHON_ACCOUNTS=accounts,
        ANTIPHON_LOG__FILTER=os.environ.get("BENCH_LOG", "info"),
    )


class Others:
    """What everything else on the machine took meanwhile: the noise in the figures."""

    def __init__(self):
        self.began, self.busy = time.monotonic(), self.busy_seconds()

    def busy_seconds(self):
        """Of the whole machine, without this process and the children that it has waited for."""
        user, nice, system, _, _, irq, softirq, steal = map(
            int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        busy = (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
        ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy - sum(usage.ru_utime + usage.ru_stime for usage in ours)

    def cores(self):
        return (self.busy_seconds() - self.busy) / (time.monotonic() - self.began)
