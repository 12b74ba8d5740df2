lines() { # "name release" on each line, as JSON
    awk '{ printf "%s{\"id\":\"%s\",\"value\":\"%s\"}", comma, $1, $2; comma = "," }'
}

case "$1" in
    set) deploy "$2" ;;
    read)
        all=$(running)
        [ -n "$all" ] || { echo "nothing runs" >&2; exit 1; }
        one=$(printf '%s\n' "$all" | awk '{ print $2 }' | sort -u)
        [ "$(printf '%s\n' "$one" | wc -l)" -eq 1 ] && one="\"$one\"" || one=null
        printf '{"value":%s,"targets":[%s]}\n' "$one" "$(printf '%s\n' "$all" | lines)"
        ;;
    history) known | awk 'BEGIN { printf "[" } { printf "%s\"%s\"", comma, $1; comma = "," } END { print "]" }' ;;
    *) exit 64 ;;
esac
