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
lint: ## every check, without the tests
	$(PYTHON) dev.py check
types: ## mypy, strict
	.venv/bin/mypy
docs: ## write the pages of docs/ that are made from the code
	$(PYTHON) dev.py docs
lock: ## write requirements.lock from what is installed
	$(PYTHON) dev.py lock
