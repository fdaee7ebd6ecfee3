# `make` alone lists what there is.
.PHONY: help test lint bench

help:
	@echo "make test   install what the tests need, and run them all"
	@echo "make lint   formatting, lints, size caps"
	@echo "make bench  the figures of docs/benchmarks.md"

test:
	scripts/test

lint:
	scripts/lint

bench:
	scripts/bench
