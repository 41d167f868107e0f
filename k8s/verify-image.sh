#!/usr/bin/env bash
# verify-image.sh BINARIES OUT: builds the coordinator's image with buildah on a Debian base made here, and runs its binary in it
# as nonroot, without capabilities, with a read-only root, as a pod would: it must get ready and end well.
# Ends with a line that counts; what this machine cannot do is counted as skipped, with the reason.
set -euo pipefail
here=$(cd "${0%/*}" && pwd)
binaries=$1 out=$2

not_run() {
  echo "image: not run: $1"
  echo "image: 0 passed, 0 failed, 1 skipped"
  exit 0
}

for tool in buildah debootstrap unshare setpriv curl; do
  command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null ||
    not_run "$tool is missing (Debian: apt-get install buildah debootstrap util-linux curl)"
done
PATH=$PATH:/usr/sbin
[ "$(id -u)" -eq 0 ] || not_run "debootstrap needs root"
unshare --mount true 2>/dev/null || not_run "this machine allows no mount namespaces"
[ -x "$binaries/coordinator" ] || not_run "there is no binary $binaries/coordinator (cargo build -p coordinator)"

mkdir -p "$out"
out=$(cd "$out" && pwd)
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || not_run "this is not Debian, whose base could be made here"
base=$out/$suite.tar
if [ ! -e "$base" ]; then
  began=$SECONDS
  rm -rf "$out/base"
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$out/base" http://deb.debian.org/debian >"$out/debootstrap.log" 2>&1 ||
    not_run "debootstrap cannot make a base: $(tail -n 1 "$out/debootstrap.log")"
  tar -C "$out/base" --exclude=./var/cache --exclude=./dev -cf "$base.part" .
  mv "$base.part" "$base"
  rm -rf "$out/base"
  echo "made a base of Debian $suite in $((SECONDS - began)) s"
fi

# A storage of its own, with the driver that needs no help of the kernel.
storage=$out/storage
options=(--root "$storage" --runroot "$out/run" --storage-driver vfs)
export BUILDAH_OPTIONS="${options[*]}" BUILDAH_ISOLATION=chroot
container='' pid=''
clean() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  buildah "${options[@]}" rm --all >/dev/null 2>&1 || true
  rm -rf "$storage" "$out/run"
}
trap clean EXIT

fail() {
  echo "image: $1"
  echo "image: 0 passed, 1 failed, 0 skipped"
  exit 1
}

container=$(buildah "${options[@]}" from scratch)
buildah "${options[@]}" add --quiet "$container" "$base" / >/dev/null
buildah "${options[@]}" commit --quiet --rm "$container" localhost/sagamesh-base:local >/dev/null
ENGINE=buildah BASE=localhost/sagamesh-base:local TAG=verify "$here/images.sh" "$binaries" "$out" coordinator

user=$(buildah "${options[@]}" inspect --type image --format '{{.OCIv1.Config.User}}' docker.io/sagamesh/coordinator:verify)
[ "$user" = 65532:65532 ] || fail "the image's user is '$user', not 65532:65532"
container=$(buildah "${options[@]}" from --pull-never docker.io/sagamesh/coordinator:verify)
root=$(buildah "${options[@]}" mount "$container")

# What a pod's securityContext says, done by hand. Only /data can be written: that not even root could write elsewhere is tried first.
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child sh -euc '
  mount --bind "$1" "$1"
  mkdir -p "$1/data" "$1/proc"
  mount -o remount,bind,ro "$1"
  mount -t tmpfs -o mode=0700,uid=65532,gid=65532 data "$1/data"
  mount -t proc proc "$1/proc"
  if touch "$1/written" 2>/dev/null; then
    echo "the root can be written" >&2
    exit 3
  fi
  cd "$1"
  restrict="setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
  exec chroot . /usr/bin/env SAGAMESH_LISTEN=127.0.0.1:0 SAGAMESH_ADMIN_LISTEN=127.0.0.1:0 SAGAMESH_DATA_DIR=/data \
    SAGAMESH_ADDRESSES_FILE=/data/addresses.json $restrict /coordinator
' sh "$root" >"$out/coordinator.run.log" 2>&1 &
pid=$!

ready=
for _ in $(seq 300); do
  kill -0 "$pid" 2>/dev/null || break
  admin=$(grep -o 'admin=[0-9.:]*' "$out/coordinator.run.log" | head -n 1 | cut -d= -f2 || true)
  if [ -n "$admin" ] && curl -fs "http://$admin/ready" >/dev/null; then
    ready=$admin
    break
  fi
  sleep 0.1
done
[ -n "$ready" ] || { cat "$out/coordinator.run.log"; fail "the coordinator does not get ready in its image"; }
server=$(pgrep -P "$pid" | head -n 1)
ids=$(awk '/^(Uid|CapEff|CapBnd|NoNewPrivs)/ { print $1 $2 }' "/proc/$server/status" | tr '\n' ' ')
kill -TERM "$server"
status=0
wait "$pid" || status=$?
pid=
case $ids in
  'Uid:65532 CapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 ') ;;
  *) fail "it ran as $ids" ;;
esac
[ "$status" -eq 0 ] || { cat "$out/coordinator.run.log"; fail "it ended with $status"; }
echo "image: the coordinator got ready as nonroot ($ids) on a read-only root, and ended well"
echo "image: 1 passed, 0 failed, 0 skipped"
