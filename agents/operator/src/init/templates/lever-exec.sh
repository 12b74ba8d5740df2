# Change these three to what your service needs. As they are, releases are folders, and `current` leads to one.
deploy() {
    [ -d "releases/$1" ] || { echo "there is no folder releases/$1" >&2; exit 64; }
    ln -sfn "releases/$1" current
    # Now restart what runs it, such as: systemctl restart @service@
}

running() { # one line for each machine: its name, and the release that it runs
    release=$(readlink current) || { echo "$PWD/current leads to no release" >&2; return 1; }
    echo "$(uname -n) $(basename "$release")"
}

known() { # newest first
    ls -1t releases
}

@lines@
