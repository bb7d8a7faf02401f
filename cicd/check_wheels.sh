#!/usr/bin/env bash
# Look whether every package of a lock has a wheel for Linux on a machine of another kind:
#   cicd/check_wheels.sh aarch64 requirements-serve.txt
set -euo pipefail
cd "$(dirname "$0")/.."
machine=${1:?names the machine, such as aarch64}
lock=${2:?names the lock}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The glibc of the base image, and all older ones that a wheel may name.
platforms=()
for version in $(seq 41 -1 17); do
  platforms+=(--platform "manylinux_2_${version}_$machine")
done
platforms+=(--platform "manylinux2014_$machine")
python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --abi cp311 --abi abi3 --abi none \
  --python-version 3.11 "${platforms[@]}" --dest "$folder" --requirement "$lock"
echo "$(find "$folder" -name '*.whl' | wc -l) wheels of $lock for $machine"
