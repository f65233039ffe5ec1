# hardcl_nb: `make` lists what there is. Every target makes its own environment in .venv first.
PYTHON ?= python3
# versions that the course is known to run with; CONSTRAINTS= for the newest
CONSTRAINTS ?= constraints.txt
py := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help course demo test slow frameworks types nightly lab student slides docs readme refresh verify bench clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

.venv/.ready: settings.ini setup.py $(CONSTRAINTS)
	@test -x $(py) || $(PYTHON) -m venv .venv
	@echo 'Installing hardcl_nb and what it needs into .venv (some minutes the first time) ...'
	@$(py) -m pip install -q --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]' || \
		{ echo 'The pinned versions do not install here; taking the newest.'; \
		$(py) -m pip install -q --disable-pip-version-check -e '.[dev]'; }
	@touch .venv/.ready

course: student ## Write working copies of the notebooks into work/ and open them in JupyterLab
	@$(py) -m jupyterlab work/00_notation.ipynb

demo: .venv/.ready ## Train easy and hard negatives on two data sets; table, figures and runs/demo/report.html (3 to 6 minutes)
	@rm -rf runs/demo
	@$(py) -m hardcl_nb.runs.compare --data digits --norms none --betas 0,2,5,10,30 --seeds 0,1,2 --out runs/demo >/dev/null
	@$(py) -m hardcl_nb.runs.compare --data digits,latent100 --betas 0,2,5,10,30 --seeds 0,1,2 --out runs/demo --resume

test: .venv/.ready ## Check that notebooks and modules agree, run every notebook and all tests (10 minutes on two cores)
	@$(py) .ci/check.py
	@OMP_NUM_THREADS=1 $(py) -m pytest -q -n auto --dist loadfile -m 'not slow' tests

slow: .venv/.ready ## The tests that take longest: large grids, many processes, whole command lines (9 minutes)
	@OMP_NUM_THREADS=1 $(py) -m pytest -q -n auto --dist worksteal -m 'slow and not nightly' tests
	@for f in 24_kernel 27_general; do $(py) .ci/notebook.py nbs/$$f.ipynb gpu notest || exit 1; done

frameworks: .venv/.ready ## Install other people's frameworks; run their tests and the recipes of page 58 (2 minutes)
	@$(py) -m pip install -q --disable-pip-version-check -e '.[frameworks]'
	@$(py) .ci/notebook.py nbs/58_recipes.ipynb
	@OMP_NUM_THREADS=1 $(py) -m pytest -q tests/test_frameworks.py

types: .venv/.ready ## Check the types of the package
	@.venv/bin/mypy hardcl_nb --ignore-missing-imports --exclude _modidx

nightly: .venv/.ready ## Fresh random examples, many more of them; faults in every file, every exercise's check, pages in a browser, a few steps of every experiment (30 minutes or more)
	@OMP_NUM_THREADS=1 $(py) -m pytest -q -n auto --dist loadfile --hypothesis-profile=nightly -m hypothesis tests
	@OMP_NUM_THREADS=1 $(py) -m pytest -q -n auto --dist worksteal -m nightly tests
	@d=$$(mktemp -d) && OMP_NUM_THREADS=1 $(py) -m hardcl_nb.runs.experiments --quick --out $$d && rm -rf $$d

lab: .venv/.ready ## Open JupyterLab at the first notebook
	@$(py) -m jupyterlab nbs/00_notation.ipynb

student: .venv/.ready ## Write copies of the notebooks to work in, into work/
	@$(py) .ci/student.py

slides: .venv/.ready ## Write the key figures as slides, work/slides.html
	@$(py) .ci/slides.py

docs: .venv/.ready ## Build the site into _docs (needs Quarto)
	@if command -v quarto >/dev/null; then touch README.md && PYTHONPATH=.ci .venv/bin/nbdev_docs; else echo 'The site needs Quarto 1.9 or newer: install it from https://quarto.org/docs/get-started, then run make docs again.'; fi

readme: .venv/.ready ## Write README.md from nbs/index.ipynb, and the pages of reference that are made from the rest
	@$(py) .ci/readme.py
	@$(py) .ci/reference.py

refresh: .venv/.ready ## Run all notebooks and store their outputs
	@$(py) .ci/refresh.py

verify: .venv/.ready ## Run all notebooks; fail if what they print is not what is stored (20 minutes)
	@$(py) .ci/verify.py

bench: .venv/.ready ## Time what is claimed to be fast; see benchmarks/
	@for f in benchmarks/*.py; do $(py) $$f; done

clean: ## Remove what the commands above made, but for runs/
	@rm -rf .venv _docs _proc build dist .pytest_cache .hypothesis nbs/nbdev.yml *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
