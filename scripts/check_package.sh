#!/usr/bin/env bash
# Check the distributions in a folder and the licences of what they need. Write a bill of materials (SBOM) to a file.
# Usage: scripts/check_package.sh DIST SBOM.json
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
dist=$1 sbom=$2
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT

twine check --strict "$dist"/*
check-wheel-contents "$dist"/*.whl
# Two points less: nobody's address is published, and releases alone name a host.
pyroma --min 8 "$dist"/*.tar.gz

extras=(flask-sqlalchemy hashes mongodb mysql pages postgresql prometheus redis)
uv pip compile --quiet --no-annotate --no-header "${extras[@]/#/--extra=}" pyproject.toml >"$requirements"
# No copyleft, except in the extra for PostgreSQL: psycopg is under the LGPL.
mapfile -t packages < <(cut --delimiter== --fields=1 "$requirements")
pip-licenses --packages "${packages[@]}" --ignore-packages psycopg psycopg-binary \
    --partial-match --allow-only "Apache;BSD;ISC;MIT;PSF"
cyclonedx-py requirements --pyproject pyproject.toml --mc-type library --output-file "$sbom" "$requirements"
