#!/bin/sh
# The public images that docker-compose.yml names, for a machine that has an engine, or may install one. What the engine
# has not is pulled; where it cannot be, a stand-in is made: the same programs from Debian 13's packages, under that name.
#
#   make.sh python:3.13-slim postgres:17 ...
#
# What is inside of a stand-in is what Debian 13 has (RabbitMQ 4.0, PostgreSQL 17, Redis 8.0, HAProxy 3.0, Python 3.13),
# whatever the tag says. An engine that is not there is installed and started; that, and stand-ins, take root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${TMPDIR:-/var/tmp}/headrace-images
base=headrace-stand-in/debian:13
# The builder that every engine has. The newer one is a plugin, which Debian's package lacks.
export DOCKER_BUILDKIT=0

if ! docker info >/dev/null 2>&1; then
    command -v dockerd >/dev/null || sh "$here/../../../stack/servers/install.sh" docker.io
    mkdir -p "$work"
    setsid dockerd >"$work/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 120); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
    docker info >/dev/null 2>&1 || { tail -n 20 "$work/dockerd.log" >&2; exit 1; }
fi

make_base() { # a minimal Debian that trusts whom this machine trusts: its package indexes may have a certificate of their own
    docker image inspect "$base" >/dev/null 2>&1 && return
    command -v debootstrap >/dev/null || sh "$here/../../../stack/servers/install.sh" debootstrap
    rm -rf "$work/root"
    mkdir -p "$work/root"
    debootstrap --variant=minbase --include=ca-certificates trixie "$work/root" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
    cp -a /usr/local/share/ca-certificates/. "$work/root/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$work/root" update-ca-certificates >/dev/null 2>&1
    tar -C "$work/root" -c . | docker import - "$base" >/dev/null
    rm -rf "$work/root"
}

recipe_of() { # NAME: the directory that says how its stand-in is made
    echo "$here/${1%%:*}"
}

sum_of() { # DIRECTORY: of what is in it
    (cd "$1" && cat -- * | cksum | tr ' ' -)
}

# A pulled image has a digest; a stand-in has the sum of the recipe that it was made from, and is made anew when that changes.
is_there() { # NAME
    found=$(docker image inspect -f '{{len .RepoDigests}} {{index .Config.Labels "headrace.recipe"}}' "$1" 2>/dev/null) || return 1
    [ "${found%% *}" != 0 ] || [ "${found#* }" = "$(sum_of "$(recipe_of "$1")" 2>/dev/null)" ]
}

for name in "$@"; do
    if is_there "$name"; then
        echo "there is $name"
        continue
    fi
    if docker pull -q "$name" >/dev/null 2>&1; then
        echo "pulled $name"
        continue
    fi
    recipe=$(recipe_of "$name")
    [ -d "$recipe" ] || { echo "make.sh: no recipe for $name" >&2; exit 2; }
    make_base
    docker build -q -t "$name" --label "headrace.recipe=$(sum_of "$recipe")" --build-arg "BASE=$base" "$recipe" >/dev/null 2>"$work/build.log" ||
        { tail -n 20 "$work/build.log" >&2; exit 1; }
    echo "made $name"
done
