# Needs flyctl and jq. The release is the tag of an image in Fly's registry; CI pushes it, see ci.yaml.
app="@service@"
# flyctl keeps its own files there.
export HOME="${HOME:-$PWD/bellwether-data}"

case "$1" in
    # Fly has no rollback: an earlier image is deployed again. Its earlier configuration does not come back.
    set) flyctl deploy --app "$app" --image "registry.fly.io/$app:$2" --yes >&2 ;;
    # A machine on a host that cannot be reached shows no configuration: its release is not known.
    read)
        flyctl machine list --app "$app" --json | jq -c '
            [.[] | select(.state != "destroyed" and .state != "destroying")
                 | select((.config.metadata.fly_process_group // "") | startswith("fly_app_") | not)
                 | {id, value: (if .config == null then null else .image_ref.tag end)}]
            | {value: (if ([.[].value] | unique | length) == 1 then .[0].value else null end), targets: .}'
        ;;
    history)
        flyctl releases --app "$app" --image --json | jq -c '
            [.[] | (.ImageRef // .imageRef // "") | select(test(":[^/@]+$")) | sub("^.*:"; "")]
            | reduce .[] as $tag ([]; if index($tag) then . else . + [$tag] end)'
        ;;
    *) exit 64 ;;
esac
