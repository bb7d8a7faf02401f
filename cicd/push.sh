# Sourced: push REMOTE_REPO for amd64 and arm64, with the tags of the reference.
#   a commit on main:  <name>-<7 digits of the commit>
#   a git tag:         <name>-<tag>, <name>-latest, <name>
# shellcheck shell=bash
push() { # name, then further arguments of docker build
  local name=$1 hash tags=() repository=${REMOTE_REPO:?names the repository}
  shift
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
  docker buildx build --platform linux/amd64,linux/arm64 --push "$@" \
    "${tags[@]/#/--tag=$repository:}" .
}
