# Sourced: push REMOTE_REPO with the tags of the reference, a list of what is in it (SBOM), and where it
# comes from (provenance); the base image by its digest, which is recorded in labels and told.
#   a commit on main:  <name>-<7 digits of the commit>
#   a git tag:         <name>-<tag>, <name>-latest, <name>; it must be the version of the code
# shellcheck shell=bash
push() { # name, platforms, then further arguments of docker build
  local name=$1 platforms=$2 hash base digest version tags=()
  local repository=${REMOTE_REPO:?names the repository}
  shift 2
  version=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' config.py)
  if [ -n "${GIT_TAG:-}" ] && [ "${GIT_TAG#v}" != "$version" ]; then
    echo "The tag is $GIT_TAG, and VERSION in config.py is $version: nothing is pushed" >&2
    return 1
  fi
  hash=$(git rev-parse --short=7 HEAD)
  if [ -n "${GIT_TAG:-}" ]; then
    tags=("$name-$GIT_TAG" "$name-latest" "$name")
  elif [ "${GIT_BRANCH:-}" = main ] && [ -z "${GIT_PULL_REQUEST:-}" ]; then
    tags=("$name-$hash")
  else
    echo "Neither a tag nor main: nothing is pushed"
    return
  fi
  echo "${DOCKER_PASSWORD:?of the registry}" |
    docker login --username "${DOCKER_USERNAME:?of the registry}" --password-stdin
  base=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)}
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$base")
  echo "$repository:${tags[0]} is built on $base@$digest" >> "${GITHUB_STEP_SUMMARY:-/dev/stdout}"
  docker buildx build --platform "$platforms" --push --sbom=true --provenance=mode=max "$@" \
    --build-arg "PYTHON_IMAGE=$base@$digest" \
    --label "org.opencontainers.image.base.name=$base" \
    --label "org.opencontainers.image.base.digest=$digest" \
    --label "org.opencontainers.image.created=$(date --utc +%Y-%m-%dT%H:%M:%SZ)" \
    --label "org.opencontainers.image.source=$(git remote get-url origin)" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
    "${tags[@]/#/--tag=$repository:}" .
}
