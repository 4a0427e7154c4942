#!/usr/bin/env bash
# The whole chain: curate → train → evaluate. Called by `make demo [VIDEOS=<folder>]`.
set -euo pipefail
cd "$(dirname "$0")"
PYTHON="${PYTHON:-.venv/bin/python}"
OUTPUT="${OUTPUT:-outputs/demo}"
VIDEOS="${1:-}"
STEPS="${STEPS:-60}"
