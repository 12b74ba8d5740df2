# The compose file says `image: SOMETHING:${TAG}` for this one, and the release is that tag.
service="@service@"
if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
else
    compose() { docker-compose "$@"; }
fi

deploy() {
    # Kept in .env, so that a later `compose up` does not bring another release back.
    touch .env
    { grep -v '^TAG=' .env || true; echo "TAG=$1"; } > .env.new
    mv .env.new .env
    compose up --detach --no-deps "$service" >&2
}

running() {
    for container in $(compose ps -q "$service"); do
        docker inspect --format '{{.Name}} {{.Config.Image}}' "$container" | sed 's,^/,,; s, .*:, ,'
    done
}

known() {
    container=$(compose ps -q "$service" | head -n 1)
    image=$(docker inspect --format '{{.Config.Image}}' "$container")
    docker image ls --format '{{.Tag}}' "${image%:*}"
}

@lines@
