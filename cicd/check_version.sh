#!/usr/bin/env bash
# Check that a tag names the version that is released, everywhere: check_version.sh TAG
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:?names the tag}
tag=${tag#v}
for line in "config.py:VERSION = \"$tag\"" "pyproject.toml:version = \"$tag\""; do
  grep -qxF "${line#*:}" "${line%%:*}" || { echo "${line%%:*} has not the line ${line#*:}" >&2 && exit 1; }
done
grep -qF "## [$tag]" CHANGELOG.md || { echo "CHANGELOG.md has no section ## [$tag]" >&2 && exit 1; }
