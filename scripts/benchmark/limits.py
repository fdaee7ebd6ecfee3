"""What a key with limits costs a turn."""

import json
import time

from processes import BURST, FOR_SECONDS, Gateway, Upstream
from tables import header, number, row

# So high that no turn is refused.
LIMITS = {
    "requests_per_minute": 10**9, "tokens_per_minute": 10**12, "concurrent_turns": 10**5,
    "budgets": [{"tokens": 10**15, "window": "month"}],
}
# Running gateways accept a new key within this time.
KEY_SECONDS = 3


def limits(figures, binaries, _rounds):
    header("collected, store true, 16 clients", "gateway", "turns/s", "CPU us/turn")
    with Upstream(*BURST) as upstream:
        for name, binary in binaries.items():
            with Gateway(upstream.account(), binary) as gateway:
                for what, rules in (("a key", {}), ("a key with limits", LIMITS)):
                    made = json.loads(gateway.command("keys", "create", what.replace(" ", "-"), "--limits", json.dumps(rules), "--json"))
                    time.sleep(KEY_SECONDS)
                    report, cpu = gateway.measured("json", 16, "true", *FOR_SECONDS, "--api-key", made["secret"])
                    per_turn = cpu / report["requests"] * 1e6
                    figures.add("limits", f"{what}, {name}", us=per_turn, per_second=report["requests_per_second"])
                    row(what, name, number(report["requests_per_second"]), number(per_turn))
