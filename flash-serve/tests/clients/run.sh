#!/bin/sh
# Runs real clients against the server with a scripted engine (examples/mock.rs), and prints a line for each check.
#
# Needs Python 3.10 or newer with venv, and PyPI for the first run; the environment is kept below the target folder.
set -eu
cd "$(dirname "$0")"
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
venv="$target/flash-serve-clients"
if ! cmp -s requirements.txt "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$venv/requirements.txt"
fi
cargo build --quiet --package flash-serve --example mock
address=$(mktemp)
"$target/debug/examples/mock" >"$address" &
server=$!
trap 'kill "$server" 2>/dev/null; rm -f "$address"' EXIT
tries=0
until [ -s "$address" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "the server did not start" >&2; exit 1; }
    sleep 0.1
done
FLASH_URL=$(cat "$address")
export FLASH_URL
# litellm would fetch a list of prices.
export LITELLM_LOCAL_MODEL_COST_MAP=True
failed=0
for client in openai_sdk anthropic_sdk ollama_sdk litellm_sdk; do
    "$venv/bin/python" "$client.py" || failed=1
done
exit "$failed"
