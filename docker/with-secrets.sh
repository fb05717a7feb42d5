#!/bin/sh
# Run a command with secrets in its environment, for programs that cannot read them from files.
# SECRET_NAME=FILE in the environment becomes NAME=<content of /run/secrets/FILE>.
set -eu
folder="${SECRETS_DIR:-/run/secrets}"
for pair in $(env | sed -n 's/^SECRET_//p'); do
    name="${pair%%=*}"
    file="$folder/${pair#*=}"
    if [ ! -r "$file" ]; then
        echo "with-secrets: cannot read $file, which $name is to come from; run docker/make-secrets.sh on the host" >&2
        exit 1
    fi
    value="$(cat "$file")"
    export "$name=$value"
    unset "SECRET_$name"
done
exec "$@"
