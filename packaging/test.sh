#!/usr/bin/env bash
# Runs the tests of tokenvault. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'EOF'
usage: packaging/test.sh [--quick | --long] [--install]

  (default)   everything that belongs into every change; under 15 minutes warm
  --quick     formatting, vet, staticcheck, layers and race tests without the
              slow suites; under 2 minutes warm
  --long      adds hours' worth: many kills, long fuzzing
  --install   as root, first install what is missing (CI=true implies it).
              Without it, what Go and gcc alone can run is run, and the rest is
              listed at the end.

With CI=true a skipped test, and anything left out, is a failure.
EOF
}

mode=default install=${CI:+yes}
for arg in "$@"; do
  case $arg in
    --quick) mode=quick ;;
    --long) mode=long ;;
    --install) install=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "packaging/test.sh: unknown argument $arg" >&2; usage >&2; exit 2 ;;
  esac
done

vault_version=1.21.0
request_version=2.88.2
sample_version=0.1.4
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tokenvault
vault_bin=$cache/vault-$vault_version/vault
node_dir=$cache/node
tools_dir=$cache/tools
suite=bookworm
rootfs_dir=$cache/rootfs-$suite
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
started=$(date +%s)
left_out=()
failed=()

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s (%ds)\n' "$*" $(($(date +%s) - started)); }

# ---- what is missing, and what it costs ----

have_vault() { [ -n "${TOKENVAULT_TEST_VAULT:-}" ] || [ -x "$vault_bin" ]; }
have_node() { [ -d "$node_dir/node_modules/request" ] && [ -d "$node_dir/node_modules/react-native-human-api" ]; }
have_rootfs() { [ -x "$rootfs_dir/usr/lib/systemd/systemd" ]; }
missing_debs() {
  command -v gcc >/dev/null || printf '%s ' gcc libc6-dev
  command -v curl >/dev/null || printf '%s ' curl
  command -v strace >/dev/null || printf '%s ' strace
  command -v mkfs.ext4 >/dev/null || printf '%s ' e2fsprogs
  command -v systemd-nspawn >/dev/null || printf '%s ' systemd-container
  command -v mmdebstrap >/dev/null || printf '%s ' mmdebstrap
  command -v node >/dev/null || printf '%s ' nodejs
  command -v npm >/dev/null || printf '%s ' npm
  /usr/bin/python3 -c 'import requests_unixsocket' 2>/dev/null || printf '%s ' python3 python3-requests-unixsocket
}

plan() {
  local debs; debs=$(missing_debs)
  if [ "$(id -u)" != 0 ]; then say "You are not root: tests that become other users are skipped, packaging/e2e is left out."; fi
  say "What this machine lacks for the whole suite:"
  if [ -n "$debs" ]; then say "  Debian packages: $debs(up to 30 MB, half a minute)"; fi
  if ! have_vault; then say "  HashiCorp Vault $vault_version, built from source for the tests only: 1.5 GB of modules, 190 MB binary, 4 to 8 minutes, once"; fi
  if ! have_node; then say "  npm request@$request_version and react-native-human-api@$sample_version, for the tests only: 6 MB, some seconds"; fi
  if ! have_rootfs; then say "  a root file system of Debian $suite, booted by the tests: 240 MB, a minute, once"; fi
  if [ -z "$debs" ] && have_vault && have_node && have_rootfs; then say "  nothing"; return; fi
  if [ -z "$install" ]; then say "Not installed now: run again as root with --install. What needs it is left out."; fi
}

install_all() {
  local debs; debs=$(missing_debs)
  if [ -n "$debs" ]; then
    [ "$(id -u)" = 0 ] || { say "Installing $debs needs root."; exit 1; }
    apt-get -qq update >/dev/null
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $debs >"$work/apt.log" 2>&1 ||
      { cat "$work/apt.log"; exit 1; }
  fi
  have_vault || build_vault
  have_rootfs || build_rootfs
  if ! have_node; then
    mkdir -p "$node_dir"
    npm install --silent --no-fund --no-audit --no-save --no-package-lock --ignore-scripts --legacy-peer-deps --prefix "$node_dir" \
      "request@$request_version" >"$work/npm.log" 2>&1 || { cat "$work/npm.log"; exit 1; }
    # The sample's package asks for all of React Native; only its README is needed.
    (cd "$work" && npm pack --silent "react-native-human-api@$sample_version" >pack.name 2>npm.log) || { cat "$work/npm.log"; exit 1; }
    mkdir -p "$node_dir/node_modules/react-native-human-api"
    tar -xzf "$work/$(tail -n1 "$work/pack.name")" -C "$node_dir/node_modules/react-native-human-api" --strip-components=1
  fi
}

build_vault() {
  say "Building Vault $vault_version (4 to 8 minutes, once)…"
  mkdir -p "$(dirname "$vault_bin")"
  (cd packaging/tools/vault && go build -tags minimal -o "$vault_bin.new" github.com/hashicorp/vault) >"$work/vault.log" 2>&1 ||
    { tail -n 40 "$work/vault.log"; exit 1; }
  mv "$vault_bin.new" "$vault_bin"
}

build_rootfs() {
  say "Making a root file system of Debian $suite (a minute, once)…"
  rm -rf "$rootfs_dir" "$rootfs_dir.new"
  mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,curl,ca-certificates "$suite" "$rootfs_dir.new" >"$work/rootfs.log" 2>&1 ||
    { tail -n 40 "$work/rootfs.log"; exit 1; }
  mv "$rootfs_dir.new" "$rootfs_dir"
}

# ---- the checks ----

check() { # name, command…: the command must succeed and print nothing that matters
  local name=$1; shift
  if "$@" >"$work/check.log" 2>&1; then say "ok    $name"; else
    say "FAIL  $name"; cat "$work/check.log"; failed+=("$name"); fi
}

formatted() { local out; out=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l); [ -z "$out" ] || { echo "gofmt -w these: $out"; return 1; }; }
tidy() { go mod tidy -diff; }
vet_darwin() { GOOS=darwin CGO_ENABLED=0 go vet ./unix/client ./cmd/tokenvault; }
staticcheck_all() {
  mkdir -p "$tools_dir"
  (cd packaging/tools/staticcheck && go build -o "$tools_dir/staticcheck" honnef.co/go/tools/cmd/staticcheck) && "$tools_dir/staticcheck" ./...
}

# show FILE: what a reader of the log wants of a "go test -v" run.
show() {
  awk '
    /^(=== (RUN|PAUSE|CONT|NAME)|PASS$)/ { next }
    /figure: / { sub(/^.*figure: /, "      "); figures = figures $0 "\n"; next }
    /^(ok|FAIL|\?)[ \t]+[a-z]/ { if ($1 == "FAIL") printf "%s", pkg; print; printf "%s", figures; pkg = ""; figures = ""; next }
    /^ *--- (PASS)/ { next }
    { pkg = pkg $0 "\n" }
    END { printf "%s", pkg }' "$1" | grep -v 'no test files' | head -n 2000
}

run_tests() { # name, go test arguments…
  local name=$1; shift
  step "$name"
  if ! go test -v "$@" >"$work/tests.log" 2>&1; then failed+=("$name"); fi
  show "$work/tests.log"
  cat "$work/tests.log" >>"$work/all.log"
}

fuzz_all() { # seconds each
  local pkg name
  step "fuzzing, $1 s each"
  for pkg in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
    for name in $(go test -list '^Fuzz' "$pkg" 2>/dev/null | grep '^Fuzz' || true); do
      check "fuzz $pkg $name" go test -run '^$' -fuzz "^$name\$" -fuzztime "$1s" "$pkg"
    done
  done
}

# ---- the run ----

plan
if [ -n "$install" ] && [ "$mode" != quick ]; then step "installing"; install_all; fi
export PATH="$PATH:/usr/local/go/bin" TOKENVAULT_TEST_NODE="$node_dir" TOKENVAULT_TEST_ROOTFS="$rootfs_dir"
if [ -z "${TOKENVAULT_TEST_VAULT:-}" ] && [ -x "$vault_bin" ]; then export TOKENVAULT_TEST_VAULT=$vault_bin; fi
: >"$work/all.log"

step "static checks"
check "gofmt" formatted
check "go mod tidy -diff" tidy
check "go vet" go vet ./...
check "go vet of the test switch" go vet -tags testswitch ./cmd/internal/cli
check "go vet for darwin (client and dev)" vet_darwin
check "staticcheck" staticcheck_all
check "shell syntax" bash -n packaging/test.sh .ci/run

apart='/tokenvault/(vault|vault/vaulttest|packaging/e2e|packaging/bench)$'
# These start real servers and processes for most of what they test.
[ "$mode" != quick ] || apart='/tokenvault/(vault|vault/vaulttest|packaging/e2e|packaging/bench|cmd/internal/cli|cmd/internal/daemon)$'
fast=$(go list ./... | grep -vE "$apart" || true)
# shellcheck disable=SC2086
run_tests "race tests" -race -timeout 10m $fast
if [ "$mode" = quick ]; then
  left_out+=("slow suites: vault, cmd/internal/cli, cmd/internal/daemon, packaging/e2e (run without --quick)")
elif ! have_vault; then
  left_out+=("vault, packaging/e2e: they need a Vault binary (--install builds one)")
else
  run_tests "Vault client, against a real server" -count=1 -race -timeout 10m ./vault/...
  missing=$(missing_debs)
  if [ -n "$missing" ] || ! have_node || ! have_rootfs || [ "$(id -u)" != 0 ]; then
    left_out+=("packaging/e2e: needs root and, from --install, npm packages, Debian packages and a root file system")
  else
    [ "$mode" != long ] || export TOKENVAULT_TEST_LONG=1
    run_tests "end to end, on real parts" -count=1 -timeout 150m ./packaging/e2e
  fi
fi
if [ "$mode" = long ]; then fuzz_all 60; elif [ "$mode" = default ]; then fuzz_all 3; fi

# ---- the end ----

count() { grep -cE "^ *--- $1" "$work/all.log" || true; }
skipped=$(count SKIP)
step "summary"
if [ "$skipped" -gt 0 ]; then
  say "Skipped, and why:"
  # go test -v prints the reason before the verdict.
  grep -B1 -E '^ *--- SKIP' "$work/all.log" | grep -vE '^ *(--- |=== )|^--$' | sed -E 's/^ *[a-z0-9_]+\.go:[0-9]+: //' | sort | uniq -c | sed 's/^/  /'
  [ -z "${CI:-}" ] || failed+=("skipped tests")
fi
if [ ${#left_out[@]} -gt 0 ]; then
  say "Left out:"; printf '  %s\n' "${left_out[@]}"
  if [ -n "${CI:-}" ] && [ "$mode" != quick ]; then failed+=("something was left out"); fi
fi
if [ ${#failed[@]} -gt 0 ]; then say "Failed:"; printf '  %s\n' "${failed[@]}"; fi
say "$(count PASS) passed, $(count FAIL) failed, $skipped skipped"
[ ${#failed[@]} -eq 0 ]
