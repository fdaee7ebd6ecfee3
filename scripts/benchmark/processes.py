"""Starts processes, sends load, and reads what a process took."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

RELEASE = pathlib.Path("target/release")
# Where databases are.
FOLDER = os.environ.get("BENCH_DIR", tempfile.gettempdir())
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SECONDS = os.environ.get("BENCH_SECONDS", "2")
FOR_SECONDS = ("--duration", f"{SECONDS}s")
WARMUP = 200
BURST = ("--event-by-event",)
# A process that takes no more CPU seconds and reads no more bytes in so many seconds has nothing to do.
IDLE_WORK, SETTLED_SECONDS = (0.05, 1 << 20), 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(2000):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.005)
    sys.exit(f"nothing listens on port {port}")


def load(port, mode, concurrency, store, *extra, warmup=WARMUP):
    """The report of the load generator."""
    command = [
        RELEASE / "antiphon-load", "--url", f"http://127.0.0.1:{port}/v1", "--mode", mode,
        "--concurrency", str(concurrency), "--warmup", str(warmup), "--store", store, "--json", *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{mode} at {concurrency}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


class Process:
    """A server that is measured, or that others are measured with."""

    def __init__(self, arguments, port, **environment):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTIPHON_"))}
        self.port = port
        self.process = subprocess.Popen(
            arguments, env={**clean, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def pids(self):
        """The process that does the work; for nginx, those are its children."""
        return [self.process.pid]

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_SECOND

    def resident_kib(self):
        status = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in self.pids()]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in status)

    def measured(self, *arguments, **options):
        """The report of a load on this process, and the CPU seconds that it took meanwhile."""
        before = self.cpu_seconds()
        report = load(self.port, *arguments, **options)
        return report, self.cpu_seconds() - before

    def cost(self, *arguments):
        """What a turn of a load takes, as figures of a table."""
        report, cpu = self.measured(*arguments)
        latency = report["latency"]
        return {
            "us": cpu / report["requests"] * 1e6, "per_second": report["requests_per_second"],
            "p50": latency["p50_us"], "p99": latency["p99_us"], "max": latency["max_us"],
        }

    def settle(self):
        """Waits until the process has nothing left to do."""
        before = self.work()
        time.sleep(SETTLED_SECONDS)
        while any(now > then + idle for now, then, idle in zip(self.work(), before, IDLE_WORK)):
            before = self.work()
            time.sleep(SETTLED_SECONDS)

    def work(self):
        """The CPU seconds and the bytes read so far."""
        read = [int(re.search(r"rchar: (\d+)", pathlib.Path(f"/proc/{pid}/io").read_text())[1]) for pid in self.pids()]
        return self.cpu_seconds(), sum(read)


class Upstream(Process):
    def __init__(self, *arguments):
        port = free_port()
        super().__init__(
            [RELEASE / "antiphon-simulator", "--bench", "--listen", f"127.0.0.1:{port}", *arguments], port
        )

    def account(self, more=""):
        return f'[{{name = "sim", base_url = "http://127.0.0.1:{self.port}/v1"{more and ", "}{more}}}]'


class Gateway(Process):
    """A gateway of its own with a database of its own."""

    def __init__(self, accounts, binary=RELEASE / "antiphon", store_url=None, **settings):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="antiphon-bench-", dir=FOLDER))
        self.binary, self.accounts = binary, accounts
        self.store_url = store_url or os.environ.get("BENCH_STORE_URL") or f"sqlite://{self.database()}"
        self.settings = settings
        self.serve()

    def serve(self):
        port = free_port()
        self.environment = dict(
            HOME=str(self.folder), ANTIPHON_LISTEN=f"127.0.0.1:{port}", ANTIPHON_STORE__URL=self.store_url,
            ANTIPHON_ACCOUNTS=self.accounts, ANTIPHON_LOG__FILTER=os.environ.get("BENCH_LOG", "info"), **self.settings,
        )
        super().__init__([self.binary, "serve"], port, **self.environment)
        self.wait_until_ready()

    def wait_until_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        for _ in range(2000):
            connection.request("GET", "/readyz")
            reply = connection.getresponse()
            reply.read()
            if reply.status == 200:
                connection.close()
                return
            time.sleep(0.005)
        sys.exit("the gateway does not get ready")

    def stop(self):
        super().__exit__()

    def restart(self, **settings):
        self.stop()
        self.settings |= settings
        self.serve()

    def database(self):
        return self.folder / "antiphon.db"

    def command(self, *arguments):
        """What a command of the gateway prints."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run([self.binary, *arguments], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"antiphon {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def gateways(upstream, binaries):
    """A gateway of each binary, by its name."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Gateway(upstream.account(), binary)) for name, binary in binaries.items()}


NGINX = """worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/errors; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{ access_log off; upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;
proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


class Nginx(Process):
    """The yardstick: what nginx takes on this machine to relay the same replies."""

    def __init__(self, upstream):
        self.folder, port = pathlib.Path(tempfile.mkdtemp(prefix="antiphon-nginx-")), free_port()
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=self.folder, upstream=upstream.port, port=port))
        super().__init__(["nginx", "-e", f"{self.folder}/errors", "-c", config], port)

    def pids(self):
        pid = self.process.pid
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def __exit__(self, *_):
        super().__exit__()
        shutil.rmtree(self.folder)


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
