#!/bin/sh
# Lets coding agents list files: each starts, gets a tool call from the scripted engine, runs `ls`, and tells what it said.
#
# Called by run.sh with FLASH_URL and the folder of node_modules. Agents get a home of their own and no network but FLASH_URL
# is needed.
set -eu
modules=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/home/.codex" "$work/repo"
cd "$work/repo"
: >found-by-ls.txt
HOME="$work/home"
export HOME DISABLE_TELEMETRY=1 DISABLE_AUTOUPDATER=1

cat >"$HOME/.codex/config.toml" <<TOML
model = "demo/tiny"
model_provider = "flash"
[model_providers.flash]
name = "flash"
base_url = "$FLASH_URL/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
TOML
cat >opencode.json <<JSON
{
  "provider": {
    "flash": {
      "npm": "@ai-sdk/openai-compatible",
      "options": { "baseURL": "$FLASH_URL/v1" },
      "models": { "demo/tiny": {} }
    }
  },
  "model": "flash/demo/tiny", "small_model": "flash/demo/tiny", "autoupdate": false, "share": "disabled"
}
JSON

failed=0
# Runs an agent, which must end well and tell what the tool said.
agent() {
    name=$1
    shift
    if timeout 120 "$@" </dev/null >"$work/out" 2>&1 && grep -q "The tool says: .*found-by-ls.txt" "$work/out"; then
        echo "ok   $name: calls a tool and finishes"
    else
        failed=1
        echo "FAIL $name: calls a tool and finishes"
        tail -c 4000 "$work/out"
    fi
}

agent claude-code env ANTHROPIC_BASE_URL="$FLASH_URL" ANTHROPIC_AUTH_TOKEN=none ANTHROPIC_MODEL=demo/tiny \
    ANTHROPIC_DEFAULT_HAIKU_MODEL=demo/tiny CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 \
    "$modules/.bin/claude" -p "list files" --allowedTools "Bash(ls:*)" --output-format json
agent codex "$modules/.bin/codex" exec --skip-git-repo-check --sandbox danger-full-access --json "list files"
agent opencode env OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1 \
    "$modules/.bin/opencode" run --format json "list files"
exit "$failed"
