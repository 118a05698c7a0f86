# Sourced by what runs inside a booted machine.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root VAULT_ADDR=http://127.0.0.1:8200
client=2e9574ecd415c99346879d07689ec1c732c11036
public=/run/tokenvault/public/api.sock

fail() { echo "FAIL: $*"; tokenvault status 2>&1 || true; journalctl -u tokenvault -u vault-test -u sim-test -n 40 --no-pager -o cat 2>&1 || true; exit 1; }
figure() { echo "figure: $*"; }
now() { date +%s%3N; }

# within SECONDS COMMAND…: waits until the command succeeds.
within() {
  local limit=$(($(date +%s) + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$limit" ] || return 1
    sleep 0.1
  done
}

start_vault() { # its storage survives a stop, and a reboot
  mkdir -p /var/lib/vault-test/data
  cat >/var/lib/vault-test/vault.hcl <<'HCL'
storage "raft" {
  path = "/var/lib/vault-test/data"
  node_id = "one"
}
listener "tcp" {
  address = "127.0.0.1:8200"
  tls_disable = true
}
api_addr = "http://127.0.0.1:8200"
cluster_addr = "http://127.0.0.1:8201"
disable_mlock = true
HCL
  systemctl reset-failed vault-test 2>/dev/null || true
  systemd-run -q --unit=vault-test vault server -config=/var/lib/vault-test/vault.hcl
  within 20 curl -s -o /dev/null http://127.0.0.1:8200/v1/sys/health || fail "vault does not answer"
  if [ ! -f /var/lib/vault-test/root ]; then
    vault operator init -key-shares=1 -key-threshold=1 >/var/lib/vault-test/init
    sed -n 's/^Unseal Key 1: //p' /var/lib/vault-test/init >/var/lib/vault-test/unseal
    sed -n 's/^Initial Root Token: //p' /var/lib/vault-test/init >/var/lib/vault-test/root
  fi
  vault operator unseal "$(cat /var/lib/vault-test/unseal)" >/dev/null
  within 20 curl -sf -o /dev/null http://127.0.0.1:8200/v1/sys/health || fail "vault is not unsealed"
}

start_sim() {
  echo marker-client-secret >/root/app-secret
  systemctl reset-failed sim-test 2>/dev/null || true
  systemd-run -q --unit=sim-test /share/humanapi-sim --listen 127.0.0.1:8300 --app "$client=/root/app-secret"
  within 10 curl -sf -o /dev/null http://127.0.0.1:8300/sim/stats || fail "the simulator does not answer"
}

session() { curl -sf -d "{\"clientId\":\"$client\",\"humanId\":\"$1\",\"clientUserId\":\"$1@example.test\"}" http://127.0.0.1:8300/sim/sessions; }

# as_app PATH [CURL ARGUMENTS]: what the app's process asks.
as_app() {
  local path=$1; shift
  runuser -u www-data -- curl -s --unix-socket "$public" -H 'Content-Type: application/json' "$@" "http://localhost$path"
}

exchange() { # USER
  local answer; answer=$(as_app /v1/connect/tokens -d "$(session "$1")")
  case $answer in *publicToken*) ;; *) fail "exchange of $1: $answer" ;; esac
}

known() { as_app "/v1/users/$1" | grep -q '"state":"active"' || fail "user $1 is not known: $(as_app "/v1/users/$1")"; }
health() { as_app /v1/health; }
ready() { health | grep -q '"ready":true'; }
sound() { health | grep -q '"ready":true,"degraded":false'; }
degraded() { health | grep -q '"ready":true,"degraded":true'; }
