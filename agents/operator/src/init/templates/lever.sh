#!/bin/sh
# Moves the release of @service@, and tells where it stands. The rollback agent runs it, with PATH and the
# secrets that rollback.yaml names, and nothing else of the environment:
#   lever.sh set v43     0: done; 75: nothing happened, try again; 64: refused; else: look before trying again
#   lever.sh read        {"value": "v43", "targets": [{"id": "one", "value": "v43"}]}
#   lever.sh history     ["v43", "v42"], newest first
set -eu
cd "$(dirname "$0")/.."

