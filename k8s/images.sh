#!/usr/bin/env bash
# images.sh BINARIES OUT [SERVICE...]: an image of each service, with docker, podman or buildah, and an archive of it in OUT.
# BASE is the image to start from, TAG the version, REGISTRY where they belong, ENGINE one of the three if not the first that is there.
set -euo pipefail
here=$(cd "${0%/*}" && pwd)
binaries=$1 out=$2
shift 2
services=("$@")
[ "${#services[@]}" -gt 0 ] || services=(coordinator orders inventory payments notifications gateway)
tag=${TAG:-dev}

fail() {
  echo "error: $1" >&2
  exit 1
}

works() {
  # A client without its daemon is as good as none.
  case $1 in
    docker) docker info ;;
    *) "$1" --version ;;
  esac >/dev/null 2>&1
}

engine=${ENGINE:-}
if [ -z "$engine" ]; then
  for one in docker podman buildah; do
    if works "$one"; then engine=$one && break; fi
  done
  [ -n "$engine" ] || fail "no way to build images: install docker (and start it), podman or buildah (Debian: apt-get install buildah)"
elif ! works "$engine"; then
  fail "ENGINE=$engine does not work: is it installed, and does its daemon run ($engine info)?"
fi
# Only buildah's own settings, such as where it stores images.
read -ra options <<<"${BUILDAH_OPTIONS:-}"
[ "$engine" = buildah ] || options=()

context=$out/context
mkdir -p "$context"
for service in "${services[@]}"; do
  [ -x "$binaries/$service" ] || fail "there is no binary $binaries/$service: build it first (make images does)"
  strip -o "$context/$service" "$binaries/$service"
done

build=(build --file "$here/Dockerfile")
[ -z "${BASE:-}" ] || build+=(--build-arg "BASE=$BASE")
for service in "${services[@]}"; do
  # The full name: otherwise podman and buildah put it under localhost/, where no cluster looks.
  name=${REGISTRY:-docker.io}/sagamesh/$service:$tag
  "$engine" "${options[@]}" "${build[@]}" --target "$service" --tag "$name" "$context" >"$out/$service.log" 2>&1 || {
    tail -n 5 "$out/$service.log" >&2
    fail "$engine cannot build $name from ${BASE:-the distroless base}: can it be pulled? BASE=IMAGE names another one; all of it is in $out/$service.log"
  }
  archive=$out/$service.tar
  rm -f "$archive"
  if [ "$engine" = buildah ]; then
    buildah "${options[@]}" push --quiet "$name" "docker-archive:$archive:$name" >/dev/null
  else
    "$engine" run --rm --read-only "$name" --help >/dev/null ||
      fail "$service does not run in its image: was it linked with a newer C library than BASE has? BASE=IMAGE names another base"
    "$engine" save --output "$archive" "$name"
  fi
  echo "$name  ($(du -h "$archive" | cut -f1), $archive)"
done
rm -rf "$context"
