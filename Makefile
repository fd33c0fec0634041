PYTHON ?= python3
.DEFAULT_GOAL := help
.PHONY: help demo test quick lint types docs lock

help: ## list these
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'
demo: ## install everything and start it on this machine
	$(PYTHON) dev.py demo
test: ## install everything and run every check and test
	$(PYTHON) dev.py test
quick: ## the tests that take moments
	$(PYTHON) dev.py test -m "not slow and not browser"
lint: ## ruff and the layers; prettier, eslint and tsc for the browser's scripts
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports
	npx prettier --check . && npx eslint . && npx tsc
types: ## mypy, strict
	.venv/bin/mypy
docs: ## write the pages of docs/ that are made from the code
	$(PYTHON) dev.py docs
lock: ## write requirements.lock from what is installed
	$(PYTHON) dev.py lock
