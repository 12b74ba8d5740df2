#!/bin/sh
# The story: a good release goes to production, a bad one is taken back, and the log of both is decided again offline.
# Each step ends as a CI job would see it; the first that ends otherwise ends the story.

expect() {
    wanted=$1
    shift
    echo "\$ $*"
    "$@"
    got=$?
    echo "exit $got"
    echo
    [ "$got" -eq "$wanted" ] || {
        echo "the story ends here: expected exit $wanted"
        exit 1
    }
}

# Every agent is there, and every lever was read back.
ready() {
    agents=$(bellwether agents list --json 2>&1) || return 1
    [ "$(echo "$agents" | grep -o '"clock_offset_ms"' | wc -l)" -ge 14 ] || return 1
    for lever in new_checkout release staging stable traffic; do
        case $agents in *"\"lever\":\"$lever\",\"value\":\""*) ;; *) return 1 ;; esac
    done
}

waited=0
until ready; do
    waited=$((waited + 1))
    [ "$waited" -le 120 ] || {
        echo "the story does not begin: not everybody is there after a minute"
        echo "$agents"
        exit 1
    }
    sleep 0.5
done

expect 0 bellwether agents list
expect 0 bellwether rollout start /etc/bellwether/shop.yaml --release v42 --wait --plain --timeout 5m
expect 1 bellwether rollout start /etc/bellwether/shop.yaml --release v43 --wait --plain --timeout 5m
expect 0 bellwether rollout explain shop
expect 0 bellwether audit verify shop
echo "v42 is in production, v43 was taken back, and nobody was woken."
