#!/bin/sh
# Make the passwords that compose.yaml mounts, once: docker/make-secrets.sh [FOLDER, by default docker/secrets]
# The folder is its owner's alone; the files in it must be readable by the users inside the containers.
set -eu
umask 022
folder="${1:-$(dirname "$0")/secrets}"
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
make() { [ -e "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"; }

make postgres_password "$(random)"
make redis_password "$(random)"
make redis_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
make api_auth "admin:$(random)"
make alert_url ""
echo "secrets are in $folder; the UI asks for what is in api_auth; alert_url may hold a webhook's address"
