# `make` alone lists what there is.
.PHONY: help test lint deny fuzz bench chaos soak dist dist-test deploy-test docs reference upgrade-test

help:
	@echo "make test   install what the tests need, and run them all"
	@echo "make lint   formatting, lints, size caps"
	@echo "make deny   licences, bans and sources of dependencies"
	@echo "make fuzz   each fuzz target for a minute (scripts/fuzz SECONDS for longer)"
	@echo "make bench  the figures of docs/benchmarks.md"
	@echo "make chaos  faults under load, for SECONDS (120), from SEED (random): docs/reliability.md"
	@echo "make dist   packages, image and tarball in target/packages; make dist-test uses them"
	@echo "make deploy-test   checks deploy/: Compose, manifests, chart, alerts, dashboard"
	@echo "make docs   the documentation as a site, in target/docs"
	@echo "make reference     docs/reference, from the code"
	@echo "make upgrade-test  from the previous release, replica by replica, under load"
	@echo "make soak   modest load for SECONDS (600): nothing may grow"

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

chaos:
	scripts/chaos $(if $(SEED),--seed $(SEED)) faults $(if $(SECONDS),--seconds $(SECONDS))

soak:
	scripts/chaos $(if $(SEED),--seed $(SEED)) soak $(if $(SECONDS),--seconds $(SECONDS))

dist:
	scripts/dist

dist-test:
	scripts/dist-test

deploy-test:
	scripts/deploy-test

docs:
	scripts/docs

reference:
	scripts/reference

upgrade-test:
	scripts/upgrade
