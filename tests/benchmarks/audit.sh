#!/usr/bin/env bash
# Audit of the code and of the installed dependencies: bandit, then pip-audit, which asks PyPI about each version. Where PyPI
# is reached through a mirror without advisories it can audit nothing, and fails (--strict).
# bandit's skipped checks, and why:
#   B101 assertions are for our own invariants and for the conformance kit
#   B105, B106 "cls" and "w1" are no passwords
#   B404, B603 the demo runs pip with a fixed list of arguments
#   B615 names on the Hub are the user's; a revision is part of huggingface_hub's cache, not of a name
# Usage: tests/benchmarks/audit.sh [python with the dependencies]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/pip" install --quiet bandit pip-audit
"$tools/bin/bandit" --quiet --recursive fastprune plugins --skip B101,B105,B106,B404,B603,B615
"$python" -m pip freeze --exclude-editable | grep -v ' @ ' > "$tools/installed.txt"
"$tools/bin/pip-audit" --requirement "$tools/installed.txt" --no-deps --disable-pip --strict
