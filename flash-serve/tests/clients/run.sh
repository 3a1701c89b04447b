#!/bin/sh
# Runs real clients against the server with a scripted engine (examples/mock.rs), and prints a line for each check.
#
# Needs Python 3.10 or newer with venv and PyPI, and Node 20 or newer with npm; what is not there is skipped with a line.
# Packages are kept below the target folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
clients="$target/flash-serve-clients"
mkdir -p "$clients"

# Installs packages once for each version of their list: folder, list, command.
install() {
    folder=$1
    list=$2
    shift 2
    if ! cmp -s "$list" "$folder/$list"; then
        rm -rf "$folder"
        mkdir -p "$folder"
        "$@" || return 1
        cp "$list" "$folder/$list"
    fi
}
python_packages() {
    python3 -m venv "$clients/python" &&
        "$clients/python/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
}
# npm runs no scripts of packages unasked; these two put the programs in their places.
node_packages() {
    cp package.json node_sdks.mjs "$clients/node/" && (
        cd "$clients/node" &&
            npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts &&
            (cd node_modules/@anthropic-ai/claude-code && node install.cjs) &&
            (cd node_modules/opencode-ai && node postinstall.mjs)
    ) >"$clients/npm.log" 2>&1
}

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
if install "$clients/python" requirements.txt python_packages; then
    for client in openai_sdk anthropic_sdk ollama_sdk litellm_sdk langchain_sdk; do
        "$clients/python/bin/python" "$client.py" || failed=1
    done
else
    echo "skip python: its packages could not be installed"
fi
if ! command -v npm >/dev/null; then
    echo "skip node: there is no npm"
elif install "$clients/node" package.json node_packages; then
    cp node_sdks.mjs "$clients/node/"
    node "$clients/node/node_sdks.mjs" || failed=1
    ./agents.sh "$clients/node/node_modules" || failed=1
else
    echo "skip node: its packages could not be installed, see $clients/npm.log"
fi
exit "$failed"
