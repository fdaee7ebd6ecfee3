#!/usr/bin/env python3
"""Checks every link within a site of HTML files: its file has to exist, and its anchor in that file."""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, _, attributes):
        for name, value in attributes:
            if name in ("id", "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def main():
    site = pathlib.Path(sys.argv[1]).resolve()
    # Its links are relative to whatever page is missing.
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    broken, checked = [], 0
    for path, page in pages.items():
        for link in sorted(page.links):
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            checked += 1
            file = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path
            anchor = urllib.parse.unquote(target.fragment)
            if not file.is_relative_to(site) or not file.is_file():
                broken.append(f"{path.relative_to(site)}: there is no {link}")
            elif anchor and file in pages and anchor not in pages[file].anchors:
                broken.append(f"{path.relative_to(site)}: {target.path or 'it'} has no anchor {anchor}")
    for line in broken:
        print(line, file=sys.stderr)
    print(f"{len(pages)} pages, {checked} links, {len(broken)} broken")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
