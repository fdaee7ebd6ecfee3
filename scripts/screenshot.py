"""Photographs the dashboard of `antiphon demo`. Called by scripts/screenshots."""

import base64
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

BINARY = "target/debug/antiphon"
# How long the demo takes until its first turns have ended.
SETTLING_SECONDS = 12
WIDTH, HEIGHT = 1360, 850
NARROW = 380


class Browser:
    """A session of WebDriver."""

    def __init__(self):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if port := re.search(r"started successfully on port (\d+)", line):
                break
        self.base = f"http://127.0.0.1:{port[1]}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        capabilities = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        self.base += "/" + self.post("", {"capabilities": capabilities})["sessionId"]

    def post(self, path, body):
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request, timeout=120))["value"]

    def devtools(self, name, **parameters):
        return self.post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script, *arguments):
        return self.post("/execute/sync", {"script": script, "args": arguments})

    def size(self, width, height):
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, name):
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def photograph(self, path):
        shot = self.devtools("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        urllib.request.urlopen(urllib.request.Request(self.base, method="DELETE"), timeout=60)
        self.driver.terminate()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    demo = subprocess.Popen([BINARY, "demo", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    url = token = None
    for line in demo.stdout:
        if line.startswith("Dashboard: "):
            url = line.split()[1].rstrip("/")
        if line.startswith("Admin token: "):
            token = line.split()[2]
            break
    time.sleep(SETTLING_SECONDS)
    browser = Browser()
    try:
        browser.size(WIDTH, HEIGHT)
        browser.post("/url", {"url": f"{url}/login"})
        browser.run("document.querySelector('[name=token]').value = arguments[0]; document.forms[0].submit()", token)
        time.sleep(2)
        screens = {"overview": "/", "responses": "/responses", "keys": "/keys", "accounts": "/accounts", "settings": "/settings"}
        browser.post("/url", {"url": f"{url}/responses"})
        chain = browser.run("return document.querySelector('[data-deep]')?.getAttribute('href')")
        if chain:
            screens["chain"] = chain
        for name, path in screens.items():
            for scheme in ("light", "dark"):
                browser.scheme(scheme)
                browser.post("/url", {"url": url + path})
                time.sleep(1)
                browser.photograph(folder / f"{name}-{scheme}.png")
        if "--all" in sys.argv:
            browser.scheme("light")
            for name, path in {**screens, "login": "/login", "new-key": "/keys/new", "key": "/keys/laptop"}.items():
                browser.post("/url", {"url": url + path})
                for width in (NARROW, WIDTH):
                    browser.size(width, HEIGHT)
                    time.sleep(0.5)
                    height = browser.run("return document.documentElement.scrollHeight")
                    browser.size(width, max(height, 400))
                    time.sleep(0.5)
                    browser.photograph(folder / f"whole-{name}-{width}.png")
    finally:
        browser.close()
        demo.terminate()


main(pathlib.Path(sys.argv[1]))
