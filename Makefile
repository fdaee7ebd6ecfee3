# `make` alone lists what there is.
.PHONY: help test lint deny fuzz bench

help:
	@echo "make test   install what the tests need, and run them all"
	@echo "make lint   formatting, lints, size caps"
	@echo "make deny   licences, bans and sources of dependencies"
	@echo "make fuzz   each fuzz target for a minute (scripts/fuzz SECONDS for longer)"
	@echo "make bench  the figures of docs/benchmarks.md"

test:
	scripts/test

lint:
	scripts/lint

deny:
	scripts/deny

fuzz:
	scripts/fuzz

bench:
	scripts/bench
