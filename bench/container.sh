#!/bin/sh
# Builds the image and tries it: what it says of itself, its size, and one exam sampled inside as user 12345, with a
# read-only root, no capabilities and no network, compared voxel by voxel with one made outside.
#   BASE_IMAGE   image to build on                        [python:3.11-slim]
#   TARGETS      targets to build; `runtime` is tried     [runtime]
#   BUILD_FLAGS  further options of `buildah bud` or `podman build`, such as --build-arg TORCH_INDEX=... or --volume;
#                --build-arg TORCH_LOCK= takes the torch that pip is configured for, not the public CUDA build
# hadolint checks the Dockerfile where it is installed. Without podman (or buildah and root) nothing is built.
set -eu

cd "$(dirname "$0")/.."
base=${BASE_IMAGE:-python:3.11-slim}
limit_mb=2200
user=12345

fail() {
    echo "error: $*" >&2
    exit 1
}

if command -v hadolint >/dev/null; then
    hadolint --ignore DL3006 Dockerfile
    echo "hadolint: nothing to say"
else
    echo "hadolint is not installed: the Dockerfile was not linted."
fi

if command -v podman >/dev/null; then
    tool=podman
elif command -v buildah >/dev/null && [ "$(id -u)" -eq 0 ]; then
    tool=buildah
else
    echo "Neither podman nor buildah (as root) is at hand: nothing was built."
    exit 0
fi

for target in ${TARGETS:-runtime}; do
    # shellcheck disable=SC2086 - BUILD_FLAGS are several words
    if [ $tool = podman ]; then
        podman build ${BUILD_FLAGS:-} --build-arg BASE_IMAGE="$base" --target "$target" -t "ccella:$target" . >/dev/null
    else
        buildah bud --isolation chroot --layers ${BUILD_FLAGS:-} --build-arg BASE_IMAGE="$base" --target "$target" \
            -t "ccella:$target" . >/dev/null
    fi
done

# What the image says of itself.
inspect() {
    buildah inspect --type image --format "{{$1}}" localhost/ccella:runtime 2>/dev/null ||
        podman image inspect --format "{{$2}}" localhost/ccella:runtime
}
image_user=$(inspect .OCIv1.Config.User .User)
case $image_user in
    *[!0-9:]* | "" | 0 | 0:*) fail "the image's user is '$image_user', not a number above 0." ;;
esac
[ "$(inspect .OCIv1.Config.Entrypoint .Config.Entrypoint)" = "[ccella]" ] || fail "the entry point is not ccella."
version=$(inspect 'index .OCIv1.Config.Labels "org.opencontainers.image.version"' \
    'index .Labels "org.opencontainers.image.version"')
licence=$(inspect 'index .OCIv1.Config.Labels "org.opencontainers.image.licenses"' \
    'index .Labels "org.opencontainers.image.licenses"')
echo "image: user $image_user, version $version, licence $licence"

scratch=$(mktemp -d)
container=""
finish() {
    if [ -n "$container" ]; then
        buildah rm "$container" >/dev/null
    fi
    rm -rf "$scratch"
}
trap finish EXIT
mkdir "$scratch/data" "$scratch/cache" "$scratch/outside"
cp examples/report.txt "$scratch/data/report.txt"
chmod -R a+rwX "$scratch"
chmod 755 "$scratch"

# Runs a command in the container, as the user, over a read-only root, without a network.
inside() {
    if [ $tool = podman ]; then
        podman run --rm --user "$user:$user" --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
            --network none --volume "$scratch/data:/data" --volume "$scratch/cache:/cache" --entrypoint "" \
            localhost/ccella:runtime "$@"
        return
    fi
    # chroot isolation of buildah knows neither a read-only root nor a network of its own: both are made here.
    buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' localhost/ccella:runtime |
        sed '/^$/d' >"$scratch/environment"
    # shellcheck disable=SC2016 - expanded by the inner shell
    unshare --mount --net --pid --ipc --fork sh -c '
        set -eu
        root=$1 scratch=$2 user=$3
        shift 3
        mount --bind "$root" "$root"
        mount --bind "$scratch/data" "$root/data"
        mount --bind "$scratch/cache" "$root/cache"
        mount -t tmpfs tmpfs "$root/tmp"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -o remount,bind,ro "$root"
        set -- env -i -C /data $(cat "$scratch/environment") "$@"
        exec setpriv --no-new-privs chroot --userspec="$user:$user" --groups= "$root" "$@"
    ' sh "$root" "$scratch" "$user" "$@"
}

if [ $tool = buildah ]; then
    container=$(buildah from localhost/ccella:runtime)
    root=$(buildah mount "$container")
    megabytes=$(($(du -s --block-size=1000000 "$root" | cut -f1)))
else
    megabytes=$(($(podman image inspect --format '{{.Size}}' localhost/ccella:runtime) / 1000000))
fi
echo "image: $megabytes MB unpacked (limit $limit_mb MB)"
[ "$megabytes" -lt "$limit_mb" ] || fail "the image is too large."

for program in cc gcc g++ c++ clang make pip; do
    if inside sh -c "command -v $program" >/dev/null; then
        fail "the image holds $program."
    fi
done
[ "$(inside id -u)" = "$user" ] || fail "the command does not run as user $user."
if inside touch /opt/x 2>/dev/null; then
    fail "the root can be written to."
fi
if inside python3 -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)' 2>/dev/null; then
    fail "the network can be reached."
fi
grep -q "^CapEff:	0000000000000000$" <<EOF || fail "the command has capabilities."
$(inside grep CapEff /proc/self/status)
EOF
echo "inside: user $user, no compiler, no pip, read-only root, no network, no capabilities"

[ "$(inside ccella --version)" = "ccella $version" ] || fail "the label's version is not the program's."
inside ccella sample --prompt report.txt --seed 0 -o out -q >/dev/null
.venv/bin/ccella sample --prompt examples/report.txt --seed 0 -o "$scratch/outside" -q >/dev/null
volumes=0
for inner in "$scratch"/data/out/*/*.nii.gz; do
    outer=$scratch/outside${inner#"$scratch/data/out"}
    gzip -dc "$inner" >"$scratch/inner.nii"
    gzip -dc "$outer" | cmp - "$scratch/inner.nii" || fail "$(basename "$inner") differs from the one made outside."
    volumes=$((volumes + 1))
done
[ "$volumes" -gt 0 ] || fail "nothing was sampled."
echo "sample: $volumes volumes, byte for byte those made outside"
